package policy

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// monitor counts the transactions of all programs that change one nftables table, from the kernel's notifications
// (https://docs.kernel.org/userspace-api/netlink/specs/nftables.html).
type monitor struct {
	socket *os.File
	table  string
	count  atomic.Int64
	lost   atomic.Bool // the kernel dropped notifications
}

// openMonitor returns a monitor of a table in this network namespace.
func openMonitor(table string) (*monitor, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("cannot watch the rules of network policies: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot watch the rules of network policies: %w", err), unix.Close(fd))
	}
	return &monitor{socket: os.NewFile(uintptr(fd), "nftables"), table: table}, nil
}

// run calls touched after each transaction that changed the table, until the monitor is closed.
func (m *monitor) run(touched func()) error {
	buffer := make([]byte, 1<<16)
	mine := false
	for {
		n, err := m.socket.Read(buffer)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			m.lost.Store(true)
			touched()
			continue
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("cannot watch the rules of network policies: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return fmt.Errorf("cannot watch the rules of network policies: %w", err)
		}
		for _, message := range messages {
			if message.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN { // ends a transaction
				if mine {
					m.count.Add(1)
					touched()
				}
				mine = false
				continue
			}
			mine = mine || m.concerns(message.Data)
		}
	}
}

// concerns reports whether a message concerns the table: its name is the first attribute of all objects in a table.
func (m *monitor) concerns(data []byte) bool {
	const family, attribute = 4, 4 // bytes before the attributes, and in an attribute's header
	if len(data) < family+attribute || data[0] != unix.NFPROTO_INET {
		return false
	}
	name, _, _ := bytes.Cut(data[family+attribute:], []byte{0})
	return string(name) == m.table
}

func (m *monitor) close() { _ = m.socket.Close() }
