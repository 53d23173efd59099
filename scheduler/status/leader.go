package status

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

// SchedulerName is the name of a scheduler in the leader's record: its machine and process and, after an @, the address at which it
// serves its status, unless that is "".
func SchedulerName(host string, pid int, address string) string {
	identity := fmt.Sprintf("%s/%d", host, pid)
	if address == "" {
		return identity
	}
	return identity + "@" + address
}

// Leaders knows which scheduler leads.
type Leaders interface {
	// Leader returns the leading scheduler's identity, or "" if none leads.
	Leader(ctx context.Context) (identity string, err error)
}

// FindLeader returns the address at which the leading scheduler serves its status.
func FindLeader(ctx context.Context, leaders Leaders) (address string, err error) {
	leader, err := leaders.Leader(ctx)
	if err != nil {
		return "", err
	}
	if leader == "" {
		return "", errors.New("no scheduler leads: start km up or km scheduler")
	}
	_, address, found := strings.Cut(leader, "@")
	if !found {
		return "", fmt.Errorf("the leading scheduler, %s, serves no status: start it with --status-address", leader)
	}
	return address, nil
}

// Reachable is the server's address for other machines: with this machine's name if it listens on all addresses.
func (s *Server) Reachable() string {
	host, port, err := net.SplitHostPort(s.Addr())
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsUnspecified() {
		return s.Addr()
	}
	name, err := os.Hostname()
	if err != nil {
		return s.Addr()
	}
	return net.JoinHostPort(name, port)
}
