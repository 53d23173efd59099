package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	// A machine that does not answer echoTries requests counts as silent; echoWait is the timeout of each.
	echoTries = 3
	echoWait  = 500 * time.Millisecond
)

// target is a peer whose pods are reached by a route, without VXLAN: its machine, and the machine's address in its pod CIDR.
type target struct {
	node          string
	machine, pods netip.Addr
}

// Blocked returns the names of the peers that answer this machine but not its pods, although routes to their pods exist. Something
// between them drops packets with pod addresses, as clouds do that check source addresses. Blocked sends ICMP echo requests over
// IPv4 and takes some seconds. Without a pod on this node it returns none. Peers without a running minion may be in the list.
func (n *Network) Blocked(ctx context.Context) ([]string, error) {
	own, gateway, targets := n.targets()
	if len(targets) == 0 {
		return nil, nil
	}
	var machines, pods []netip.Addr
	for _, t := range targets {
		machines, pods = append(machines, t.machine), append(pods, t.pods)
	}
	heard, err := echo(ctx, []netip.Addr{gateway, own}, pods)
	if errors.Is(err, unix.EADDRNOTAVAIL) { // the machine has that address only while it has pods
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot send echo requests from a pod address: %w", err)
	}
	alive, err := echo(ctx, []netip.Addr{own, gateway}, machines)
	if err != nil {
		return nil, fmt.Errorf("cannot send echo requests to other nodes: %w", err)
	}
	var blocked []string
	for i, t := range targets {
		if alive[i] && !heard[i] {
			blocked = append(blocked, t.node)
		}
	}
	return blocked, nil
}

// targets returns the targets of Blocked, and the source addresses: the machine's own, and its address in its pod CIDR.
func (n *Network) targets() (own, from netip.Addr, targets []target) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.plan == nil {
		return own, from, nil
	}
	own, isKnown := ofFamily(n.plan.Addresses, netip.IPv4Unspecified())
	from, hasPods := ofFamily(n.plan.gateways(), netip.IPv4Unspecified())
	if !isKnown || !hasPods {
		return own, from, nil
	}
	for _, peer := range n.peers {
		m, _ := n.plan.mesh([]Peer{peer}, lookUpRoute) // applyMesh logs problems
		for _, h := range m.hops {
			if h.device != "" && h.prefix.Addr().Is4() && !h.prefix.IsSingleIP() {
				targets = append(targets, target{node: peer.Node, machine: h.via, pods: gateway(h.prefix)})
				break
			}
		}
	}
	return own, from, targets
}

// echo sends ICMP echo requests to the addresses, from the first of this machine's own, and reports which have answered. An ICMP
// error such as "host unreachable" counts as an answer unless this machine sent it.
func echo(ctx context.Context, own []netip.Addr, to []netip.Addr) (heard []bool, err error) {
	conn, err := icmp.ListenPacket("ip4:icmp", own[0].String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	id := rand.N(1 << 16)
	heard = make([]bool, min(len(to), 1<<16))
	missing := len(heard)
	for range echoTries {
		for i := range heard {
			if heard[i] {
				continue
			}
			request := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: i}}
			packet, err := request.Marshal(nil)
			if err != nil {
				return nil, err
			}
			_, _ = conn.WriteTo(packet, &net.IPAddr{IP: to[i].AsSlice()}) // an address that cannot be reached does not answer
		}
		if err := conn.SetReadDeadline(time.Now().Add(echoWait)); err != nil {
			return nil, err
		}
		for buffer := make([]byte, 1500); missing > 0; {
			size, sender, err := conn.ReadFrom(buffer)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				break // next try
			}
			if isOneOf(sender, own) {
				continue
			}
			if i, ok := answerTo(id, buffer[:size]); ok && i < len(heard) && !heard[i] {
				heard[i] = true
				missing--
			}
		}
	}
	return heard, nil
}

func isOneOf(sender net.Addr, addresses []netip.Addr) bool {
	ip, ok := sender.(*net.IPAddr)
	return ok && slices.ContainsFunc(addresses, func(a netip.Addr) bool { return ip.IP.Equal(a.AsSlice()) })
}

// answerTo reads the sequence number from a reply to a request with the id: an echo reply, or an error that quotes the request's
// header (https://www.rfc-editor.org/rfc/rfc792).
func answerTo(id int, packet []byte) (number int, ok bool) {
	const protocolICMP = 1
	message, err := icmp.ParseMessage(protocolICMP, packet)
	if err != nil {
		return 0, false
	}
	switch body := message.Body.(type) {
	case *icmp.Echo:
		return body.Seq, message.Type == ipv4.ICMPTypeEchoReply && body.ID == id
	case *icmp.DstUnreach:
		const identifier, sequence, size = 4, 6, 8 // offsets in the request's header
		if len(body.Data) == 0 {
			return 0, false
		}
		header := int(body.Data[0]&0xf) * 4
		if len(body.Data) < header+size || ipv4.ICMPType(body.Data[header]) != ipv4.ICMPTypeEcho {
			return 0, false
		}
		request := body.Data[header:]
		return int(binary.BigEndian.Uint16(request[sequence:])), int(binary.BigEndian.Uint16(request[identifier:])) == id
	}
	return 0, false
}
