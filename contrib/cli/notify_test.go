package cli

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"
)

func TestSystemdHearsOfTheService(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	heard, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer heard.Close()
	next := func() string {
		t.Helper()
		message := make([]byte, 100)
		n, err := heard.Read(message)
		if err != nil {
			t.Fatal(err)
		}
		return string(message[:n])
	}
	t.Setenv("NOTIFY_SOCKET", socket)
	c := &common{logLevel: logLevel(logrus.InfoLevel)}
	ready := c.notify.ready // as roles are given it, before they are served
	err = serve(c, func(ctx context.Context) error {
		if left := os.Getenv("NOTIFY_SOCKET"); left != "" {
			t.Errorf("child processes would speak for the service: NOTIFY_SOCKET=%s", left)
		}
		ready()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		if got := next(); got != want {
			t.Errorf("systemd heard %q, not %q", got, want)
		}
	}
}
