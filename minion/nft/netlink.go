package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// The kernel's numbers (https://docs.kernel.org/userspace-api/netlink/specs/nftables.html).
const (
	protocol  = 12 // NETLINK_NETFILTER
	subsystem = 10 // NFNL_SUBSYS_NFTABLES

	newChain, getChain = 3, 4
	newSet, getSet     = 9, 10

	// Attributes of both chains and sets.
	tableAttribute = 1
	// Attributes of a chain, and of a set.
	chainName, setName, setFlags = 3, 2, 3
	// Flags of a set.
	anonymous, isMap = 0x1, 0x8

	familyHeader  = 4    // bytes of nfgenmsg, before the attributes
	interrupted   = 0x10 // NLM_F_DUMP_INTR: the rules changed meanwhile
	attributeMask = 0x3fff
)

// attempts is how often names are read again that changed meanwhile.
const attempts = 5

// named is an object of a table.
type named struct{ kind, name string }

// errChanged says that a transaction was committed while the kernel told the names.
var errChanged = errors.New("the rules changed meanwhile")

// read returns what a table has with a name of its own.
func read(family byte, table string) (names []named, err error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer syscall.Close(fd)
	for range attempts {
		c := conversation{fd: fd, family: family, table: table}
		if err = c.ask(getChain, c.chain); err == nil {
			err = c.ask(getSet, c.set)
		}
		if !errors.Is(err, errChanged) {
			return c.names, err
		}
	}
	return nil, err
}

// conversation asks the kernel for one table.
type conversation struct {
	fd     int
	number uint32 // of the request
	family byte
	table  string
	names  []named
}

// ask requests all objects of a kind, and calls take with the attributes of each.
func (c *conversation) ask(request byte, take func(attributes []byte)) error {
	c.number++
	if err := syscall.Sendto(c.fd, c.request(request), 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	changed := false
	buffer := make([]byte, 1<<16)
	for {
		n, _, err := syscall.Recvfrom(c.fd, buffer, 0)
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return fmt.Errorf("cannot read what the kernel sends: %w", err)
		}
		for _, m := range messages {
			if m.Header.Seq != c.number {
				continue // of a request that was given up
			}
			changed = changed || m.Header.Flags&interrupted != 0
			switch {
			case m.Header.Type == syscall.NLMSG_DONE || m.Header.Type == syscall.NLMSG_ERROR:
				return ended(m.Data, changed)
			case m.Header.Type == subsystem<<8|newChain || m.Header.Type == subsystem<<8|newSet:
				take(m.Data[min(familyHeader, len(m.Data)):])
			}
		}
	}
}

// ended is the result of a request, whose last message begins with a negative errno.
func ended(data []byte, changed bool) error {
	if len(data) >= 4 {
		if code := int32(binary.NativeEndian.Uint32(data)); code < 0 {
			return syscall.Errno(-code)
		}
	}
	if changed {
		return errChanged
	}
	return nil
}

// request renders one: header, family, and the table, which the kernel heeds for sets.
func (c *conversation) request(kind byte) []byte {
	value := append([]byte(c.table), 0)
	padded := (len(value) + 3) &^ 3
	length := syscall.NLMSG_HDRLEN + familyHeader + 4 + padded
	b := make([]byte, 0, length)
	b = binary.NativeEndian.AppendUint32(b, uint32(length))
	b = binary.NativeEndian.AppendUint16(b, subsystem<<8|uint16(kind))
	b = binary.NativeEndian.AppendUint16(b, syscall.NLM_F_REQUEST|syscall.NLM_F_DUMP)
	b = binary.NativeEndian.AppendUint32(b, c.number)
	b = append(b, 0, 0, 0, 0, c.family, 0, 0, 0) // the kernel gives the port
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, tableAttribute)
	b = append(b, value...)
	return b[:length]
}

func (c *conversation) chain(attributes []byte) {
	if text(find(attributes, tableAttribute)) == c.table {
		c.names = append(c.names, named{"chain", text(find(attributes, chainName))})
	}
}

// set takes sets and maps that have a name: others belong to one rule.
func (c *conversation) set(attributes []byte) {
	var flags uint32
	if b := find(attributes, setFlags); len(b) == 4 {
		flags = binary.BigEndian.Uint32(b)
	}
	if text(find(attributes, tableAttribute)) != c.table || flags&anonymous != 0 {
		return
	}
	kind := "set"
	if flags&isMap != 0 {
		kind = "map"
	}
	c.names = append(c.names, named{kind, text(find(attributes, setName))})
}

// find returns the value of an attribute, nil if it is not there.
func find(attributes []byte, kind uint16) []byte {
	for len(attributes) >= 4 {
		length := int(binary.NativeEndian.Uint16(attributes))
		if length < 4 || length > len(attributes) {
			return nil
		}
		if binary.NativeEndian.Uint16(attributes[2:])&attributeMask == kind {
			return attributes[4:length]
		}
		attributes = attributes[min((length+3)&^3, len(attributes)):]
	}
	return nil
}

// text is a string that a zero ends.
func text(value []byte) string {
	for i, b := range value {
		if b == 0 {
			return string(value[:i])
		}
	}
	return string(value)
}
