package cli

import (
	"fmt"
	"net"
	"os"

	"github.com/sirupsen/logrus"
)

// notifier tells systemd how a service is, if systemd has started it with Type=notify
// (https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html).
type notifier struct {
	socket string // "" if nobody wants to know
}

// newNotifier takes the socket out of the environment, so that child processes don't speak for this one.
func newNotifier() notifier {
	n := notifier{socket: os.Getenv("NOTIFY_SOCKET")}
	os.Unsetenv("NOTIFY_SOCKET")
	return n
}

// ready says that the service serves.
func (n *notifier) ready() { n.tell("READY=1") }

// stopping says that the service ends.
func (n *notifier) stopping() { n.tell("STOPPING=1") }

func (n *notifier) tell(state string) {
	if n.socket == "" {
		return
	}
	if err := n.send(state); err != nil {
		logrus.WithError(err).Warnf("cannot tell systemd %s", state)
	}
}

func (n *notifier) send(state string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("cannot reach $NOTIFY_SOCKET: %w", err)
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}
