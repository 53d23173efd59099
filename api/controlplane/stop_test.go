package controlplane

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/heldport"
	"github.com/k8sm/k8sm/api/statedir"
)

// hose passes bytes on to an address until it is pinched: then connections stand still, as those to an etcd without a majority.
type hose struct {
	net.Listener
	to      string
	pinched chan struct{}
}

func newHose(t *testing.T, to string) *hose {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hose{l, to, make(chan struct{})}
	t.Cleanup(func() { _ = l.Close() })
	go h.serve()
	return h
}

func (h *hose) serve() {
	for {
		from, err := h.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", h.to)
		if err != nil {
			_ = from.Close()
			continue
		}
		for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
			go func() { _, _ = io.Copy(way[0], stilled{way[1], h}); _ = way[0].Close() }()
		}
	}
}

// stilled reads nothing once the hose is pinched.
type stilled struct {
	io.Reader
	hose *hose
}

func (s stilled) Read(data []byte) (int, error) {
	n, err := s.Reader.Read(data)
	select {
	case <-s.hose.pinched:
		select {}
	default:
		return n, err
	}
}

// stopLimit leaves something of the 90 s after which systemd kills.
const stopLimit = 70 * time.Second

// A control plane that is stopped while etcd does not answer must end by itself: systemd kills it after a while, with what it has not done yet.
func TestControlPlaneStopsWithoutEtcd(t *testing.T) {
	member, dir := statedir.Dir(t.TempDir()), statedir.Dir(t.TempDir())
	etcd := newHose(t, runMember(t, member)[len("https://"):])
	copyFiles(t, member, dir, "pki/etcd-ca.*")
	plane := startChild(t, dir, fmt.Sprintf("%s=--etcd-servers=https://%s\n--secure-port=%d", childFlags, etcd.Addr(), heldport.OfTest(t)))
	admin := clientOf(t, adminConfig(t, dir))
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer stop()
	close(etcd.pinched)
	for range 5 {
		callers.Go(func() {
			for ctx.Err() == nil {
				_, _ = admin.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "in-vain-"}}, metav1.CreateOptions{})
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
	}
	<-time.After(3 * time.Second) // requests wait for etcd now
	began := time.Now()
	if err := plane.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- plane.cmd.Wait() }()
	select {
	case err := <-ended:
		t.Logf("it ended after %s", time.Since(began).Round(100*time.Millisecond))
		if err != nil {
			t.Error(err)
		}
	case <-time.After(stopLimit):
		_ = plane.cmd.Process.Signal(syscall.SIGQUIT) // which writes what it waits for
		<-ended
		t.Errorf("it had not ended after %s", stopLimit)
	}
}
