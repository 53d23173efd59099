package network

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/api"
)

// datagram returns an IPv4 or IPv6 packet with a UDP datagram.
func datagram(from, to netip.AddrPort, text string) []byte {
	const header = 8
	udp := binary.BigEndian.AppendUint16(nil, from.Port())
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(header+len(text)))
	udp = append(append(udp, 0, 0), text...)
	length := binary.BigEndian.AppendUint32(nil, uint32(len(udp)))
	pseudo := append(append(from.Addr().AsSlice(), to.Addr().AsSlice()...), append(length, 0, 0, 0, unix.IPPROTO_UDP)...)
	binary.BigEndian.PutUint16(udp[6:], checksum(append(pseudo, udp...)))
	if from.Addr().Is6() {
		head := append([]byte{0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64}, from.Addr().AsSlice()...)
		return append(append(head, to.Addr().AsSlice()...), udp...)
	}
	head := append([]byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}, from.Addr().AsSlice()...)
	head = append(head, to.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(head[10:], checksum(head))
	return append(head, udp...)
}

// checksum is that of RFC 1071.
func checksum(data []byte) uint16 {
	var sum uint32
	for i, b := range data {
		sum += uint32(b) << (8 * uint(1-i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// listen opens a UDP socket in the pod until the test ends.
func (p pod) listen(t *testing.T, at netip.AddrPort) (heard net.PacketConn) {
	t.Helper()
	p.do(t, func() {
		var err error
		heard, err = net.ListenPacket("udp", at.String())
		must(t, err)
	})
	t.Cleanup(func() { heard.Close() })
	return heard
}

// expectFirst reads one datagram. Those that were sent before and did not arrive have been dropped.
func expectFirst(t *testing.T, heard net.PacketConn, want string) {
	t.Helper()
	must(t, heard.SetReadDeadline(time.Now().Add(5*time.Second)))
	text := make([]byte, 64)
	got, _, err := heard.ReadFrom(text)
	if first := string(text[:got]); err != nil || first != want {
		t.Errorf("the first to arrive is %q, want %q: %v", first, want, err)
	}
}

// A container with Docker's default capabilities has NET_RAW: it writes its packets' source addresses itself.
func TestPodCannotForgeSourceWhereReversePathFilterIsLoose(t *testing.T) {
	n := newTestNetwork(t)
	must(t, os.WriteFile(sysctls+"/ipv4/conf/all/rp_filter", []byte("2"), 0)) // as on Ubuntu: the kernel takes the larger of this and the device's
	must(t, n.Setup([]string{testRange}))
	liar, target, friend := newPod(t, "liar"), newPod(t, "target"), newPod(t, "friend")
	own, at, friendly := attach(t, n, liar), attach(t, n, target), attach(t, n, friend)
	to := netip.AddrPortFrom(netip.MustParseAddr(at), 53)
	heard := target.listen(t, to)
	liar.do(t, func() {
		raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		must(t, err)
		defer unix.Close(raw)
		// Another pod's address, one that no pod has, the machine's, loopback's, one outside, and none; then its own.
		for _, from := range []string{friendly, "198.18.1.99", "198.18.1.1", "127.0.0.1", "192.0.2.7", "0.0.0.0", own} {
			packet := datagram(netip.AddrPortFrom(netip.MustParseAddr(from), 9), to, from)
			must(t, unix.Sendto(raw, packet, 0, &unix.SockaddrInet4{Addr: to.Addr().As4()}))
		}
	})
	expectFirst(t, heard, own)
}

// packetSocket sends frames by the pod's device.
func packetSocket(t *testing.T) (device netlink.Link, send func(frame []byte)) {
	t.Helper()
	device, err := netlink.LinkByName(podDevice)
	must(t, err)
	raw, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(raw) })
	return device, func(frame []byte) {
		must(t, unix.Sendto(raw, frame, 0, &unix.SockaddrLinklayer{Ifindex: device.Attrs().Index}))
	}
}

// askByARP asks for the address in the name of many others (RFC 826).
func askByARP(t *testing.T, to netip.Addr, askers []netip.Addr) {
	t.Helper()
	device, send := packetSocket(t)
	own := device.Attrs().HardwareAddr
	for _, asker := range askers {
		frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, own...)
		frame = append(append(frame, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1), own...)
		frame = append(append(append(frame, asker.AsSlice()...), make([]byte, 6)...), to.AsSlice()...)
		send(frame)
	}
}

// askByND is the same for IPv6 (RFC 4861).
func askByND(t *testing.T, to netip.Addr, askers []netip.Addr) {
	t.Helper()
	device, send := packetSocket(t)
	own, target := device.Attrs().HardwareAddr, to.As16()
	group := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: target[13], 14: target[14], 15: target[15]})
	for _, asker := range askers {
		body := append(make([]byte, 4), to.AsSlice()...)
		body = append(append(body, 1, 1), own...) // option: the link-layer address
		message := icmp.Message{Type: ipv6.ICMPTypeNeighborSolicitation, Body: &icmp.RawBody{Data: body}}
		solicitation, err := message.Marshal(icmp.IPv6PseudoHeader(asker.AsSlice(), group.AsSlice()))
		must(t, err)
		frame := append([]byte{0x33, 0x33, 0xff, target[13], target[14], target[15]}, own...)
		frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(solicitation)), unix.IPPROTO_ICMPV6, 255)
		send(append(append(append(frame, asker.AsSlice()...), group.AsSlice()...), solicitation...))
	}
}

// neighbors are those of the machine that are none of these.
func neighbors(t *testing.T, but []netip.Addr) (others []string) {
	t.Helper()
	for _, f := range []Family{IPv4, IPv6} {
		list, err := netlink.NeighList(0, int(f))
		must(t, err)
		for _, entry := range list {
			if address, _ := netip.AddrFromSlice(entry.IP); !entry.IP.IsMulticast() && entry.State&netlink.NUD_NOARP == 0 && !slices.Contains(but, address.Unmap()) {
				others = append(others, address.String())
			}
		}
	}
	return others
}

// The kernel has one table of neighbors for all devices, with 1,024 places by default. Who fills it cuts the machine off.
func TestPodCannotFillTheMachinesNeighborTable(t *testing.T) {
	inNamespace(t)
	must(t, os.WriteFile(sysctls+"/ipv4/conf/all/rp_filter", []byte("2"), 0))
	uplink := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}}
	must(t, netlink.LinkAdd(uplink))
	address, err := netlink.ParseAddr("192.0.2.1/24")
	must(t, err)
	must(t, netlink.AddrAdd(uplink, address))
	must(t, netlink.LinkSetUp(uplink))
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Gw: net.IPv4(192, 0, 2, 254)}))
	n, err := New(Config{Cluster: "test", Node: "agent-1", ClusterCIDR: "198.18.0.0/16,fd00:7::/48", Dir: filepath.Join(t.TempDir(), "network")})
	must(t, err)
	must(t, n.Setup([]string{testRange, "fd00:7:0:1::/64"}))
	p := newPod(t, "noisy")
	own, err := n.Attach(t.Context(), p.Sandbox)
	must(t, err)
	listener, err := net.Listen("tcp", ":80")
	must(t, err)
	answer(t, listener)
	gateways := addresses("198.18.1.1", "fd00:7:0:1::1")
	var hardware net.HardwareAddr
	p.do(t, func() {
		device, err := netlink.LinkByName(podDevice)
		must(t, err)
		hardware = device.Attrs().HardwareAddr
		askByARP(t, gateways[0], many("203.0.113.1", 100))
		askByND(t, gateways[1], many("fd00:7:0:1::1000", 100))
		askByND(t, gateways[1], many("fe80::1000", 100))
		for i, gateway := range gateways { // what was sent before has been seen then
			expect(t, netip.AddrPortFrom(gateway, 80).String(), own[i].String())
		}
	})
	if others := neighbors(t, append(own, linkLocal(hardware))); len(others) > 0 {
		t.Errorf("a pod has given the machine %d neighbors: %s…", len(others), others[:min(3, len(others))])
	}
}

// many returns addresses that follow each other.
func many(first string, count int) (list []netip.Addr) {
	for address := netip.MustParseAddr(first); len(list) < count; address = address.Next() {
		list = append(list, address)
	}
	return list
}

// tunnelled is a packet that an encapsulating machine sends to the VXLAN port of the one with the address (RFC 7348).
func tunnelled(machine netip.Addr, packet []byte) []byte {
	kind := uint16(unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		kind = unix.ETH_P_IPV6
	}
	frame := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, api.DefaultVXLANVNI<<8)
	frame = append(append(frame, hardwareAddress(machine)...), 2, 0, 0, 0, 0, 1)
	return append(binary.BigEndian.AppendUint16(frame, kind), packet...)
}

// sendUDP sends a datagram from this namespace.
func sendUDP(t *testing.T, to netip.AddrPort, data []byte) {
	t.Helper()
	conn, err := net.Dial("udp", to.String())
	must(t, err)
	defer conn.Close()
	_, err = conn.Write(data)
	must(t, err)
}

func TestMachineTakesVXLANPacketsFromPeersOnly(t *testing.T) {
	for family, addr := range map[string]struct{ one, two, other, stranger, podCIDR, otherCIDR, forged string }{
		"IPv4": {"192.0.2.1/24", "192.0.2.2/24", "192.0.2.3/24", "192.0.2.9/24", "198.18.1.0/24", "198.18.2.0/24", "198.18.2.7"},
		"IPv6": {"2001:db8::1/64", "2001:db8::2/64", "2001:db8::3/64", "2001:db8::9/64", "fd00:18:0:1::/64", "fd00:18:0:2::/64", "fd00:18:0:2::7"},
	} {
		t.Run(family, func(t *testing.T) {
			inNamespace(t)
			how := api.PodNetwork{Mode: api.NetworkVXLAN}
			one := newMachine(t, "one", lan{"lan", addr.one, ""}, addr.podCIDR, how)
			two := newMachine(t, "two", lan{"lan", addr.two, ""}, addr.otherCIDR, how)
			stranger := newPod(t, "stranger")
			joinLan(t, stranger, "lan", addr.stranger)
			acquaint(t, one, two)
			web, webIP := newPodOn(t, one, "web")
			to := netip.AddrPortFrom(netip.MustParseAddr(webIP), 53)
			heard := web.listen(t, to)
			machine := one.peer.Addresses[0]
			send := func(from pod, text string) {
				packet := datagram(netip.AddrPortFrom(netip.MustParseAddr(addr.forged), 9), to, text)
				from.do(t, func() {
					sendUDP(t, netip.AddrPortFrom(machine, api.DefaultVXLANPort), tunnelled(machine, packet))
					if _, err := call(netip.AddrPortFrom(machine, 9).String()); !errors.Is(err, unix.ECONNREFUSED) { // it has arrived by then
						t.Errorf("the machine does not answer: %v", err)
					}
				})
			}
			both := func(when string) {
				t.Helper()
				send(stranger, "a stranger "+when)
				send(two.pod, when)
				expectFirst(t, heard, when)
			}
			both("at first")
			one.do(t, func() {
				one.network = restarted(t, one.network)
				must(t, one.network.Adopt())
			})
			both("after a restart, before the nodes are known")
			one.do(t, func() {
				must(t, exec.Command("nft", "flush", "ruleset").Run())
				one.network.Reach([]Peer{two.peer})
				one.network.repair()
			})
			both("after another program's flush")
			send(two.pod, "a node that has gone")
			expectFirst(t, heard, "a node that has gone")
			one.do(t, func() {
				one.network.Reach([]Peer{{Node: "x", Addresses: []netip.Addr{netip.MustParsePrefix(addr.other).Addr()}, Prefixes: two.peer.Prefixes}})
			})
			send(two.pod, "after it has gone")
			one.do(t, func() { one.network.Reach([]Peer{two.peer}) })
			both("when it is back")
			one.do(t, func() { must(t, one.network.Teardown()); noTables(t) })
		})
	}
}

// noTables expects that no nftables table of the pod network is left.
func noTables(t *testing.T) {
	t.Helper()
	left, err := exec.Command("nft", "list", "tables").Output()
	must(t, err)
	if strings.Contains(string(left), "k8sm") {
		t.Errorf("left behind: %s", left)
	}
}
