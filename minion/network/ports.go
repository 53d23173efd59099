package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// holdPorts binds the pod's host ports, so that no other program of the machine listens there: rules would redirect its connections
// to the pod. If a port is in use, it fails and binds none. The sockets never get a connection. SCTP ports are not bound.
func holdPorts(ports []Port) (held []io.Closer, err error) {
	for _, port := range ports {
		socket, err := holdPort(port)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cannot publish host port %d/%s: %w", port.HostPort, port.Protocol, err), closeAll(held))
		}
		if socket != nil {
			held = append(held, socket)
		}
	}
	return held, nil
}

func holdPort(port Port) (io.Closer, error) {
	host, network := port.HostIP, strings.ToLower(port.Protocol)
	if !host.IsValid() || host.IsUnspecified() {
		host = netip.IPv4Unspecified()
	}
	address := net.JoinHostPort(host.String(), strconv.Itoa(int(port.HostPort)))
	switch network {
	case "tcp":
		return net.Listen(network, address)
	case "udp":
		return net.ListenPacket(network, address)
	}
	return nil, nil
}

func closeAll(sockets []io.Closer) error {
	var problems []error
	for _, s := range sockets {
		problems = append(problems, s.Close())
	}
	return errors.Join(problems...)
}

// forgetFlows deletes the conntrack entries of UDP flows to the pod's host ports. The kernel applied the rules of that time to their
// first packet, and would go on so as long as packets arrive.
func forgetFlows(e endpoint) error {
	var filters []netlink.CustomConntrackFilter
	for _, port := range e.Sandbox.Ports {
		if port.Protocol != "UDP" {
			continue
		}
		filter := new(netlink.ConntrackFilter)
		if err := errors.Join(filter.AddProtocol(unix.IPPROTO_UDP), filter.AddPort(netlink.ConntrackOrigDstPort, port.HostPort)); err != nil {
			return err
		}
		filters = append(filters, filter)
	}
	if len(filters) == 0 {
		return nil
	}
	for _, address := range e.Addresses {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(familyOf(address)), filters...); err != nil {
			return fmt.Errorf("cannot forget the flows to UDP host ports: %w", err)
		}
	}
	return nil
}
