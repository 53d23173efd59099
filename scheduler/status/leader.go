package status

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

// SchedulerName returns the identity of a scheduler in the leader election record: host/pid, and @address if it serves its
// status at an address.
func SchedulerName(host string, pid int, address string) string {
	identity := fmt.Sprintf("%s/%d", host, pid)
	if address == "" {
		return identity
	}
	return identity + "@" + address
}

// Leaders reads the leader election record.
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
	if address = AddressOf(leader); address == "" {
		return "", fmt.Errorf("the leading scheduler, %s, serves no status: start it with --status-address", leader)
	}
	return address, nil
}

// AddressOf returns the address in an identity by SchedulerName; "" if it has none.
func AddressOf(identity string) string {
	_, address, _ := strings.Cut(identity, "@")
	return address
}

// Reachable returns the server's address for other machines. If it listens on all addresses, the host is this machine's name.
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
