package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/minion/network"
)

// lab creates machines and pods as network namespaces. It has a namespace of its own for the links between them, so that this
// machine's network stays untouched. Call its methods only on the thread in that namespace.
type lab struct {
	dir  string
	home netns.NsHandle
	undo []func() error
}

// space is a network namespace.
type space struct{ handle, home netns.NsHandle }

func newLab(dir string) (*lab, error) {
	home, err := netns.New()
	if err != nil {
		return nil, fmt.Errorf("cannot make a network namespace, which needs root: %w", err)
	}
	return &lab{dir: dir, home: home, undo: []func() error{home.Close}}, nil
}

// close takes everything down, the last first.
func (l *lab) close() error {
	var problems []error
	for i := len(l.undo) - 1; i >= 0; i-- {
		problems = append(problems, l.undo[i]())
	}
	return errors.Join(problems...)
}

func (l *lab) newSpace() (space, error) {
	handle, err := netns.New()
	if err != nil {
		return space{}, err
	}
	l.undo = append(l.undo, handle.Close)
	return space{handle, l.home}, netns.Set(l.home)
}

// do calls a function in the namespace, on this thread.
func (s space) do(call func() error) error {
	if err := netns.Set(s.handle); err != nil {
		return err
	}
	return errors.Join(call(), netns.Set(s.home))
}

// plug joins a namespace to a bridge of the lab, which is made when it is first named, with an address there.
func (l *lab) plug(s space, bridge, name, address string) error {
	on, err := netlink.LinkByName(bridge)
	if err != nil {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}); err != nil {
			return fmt.Errorf("cannot make a bridge: %w", err)
		}
		if on, err = netlink.LinkByName(bridge); err != nil {
			return err
		}
	}
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: on.Attrs().Index}, PeerName: "eth0", PeerNamespace: netlink.NsFd(s.handle)}
	if err := errors.Join(netlink.LinkSetUp(on), netlink.LinkAdd(cable), netlink.LinkSetUp(cable)); err != nil {
		return fmt.Errorf("cannot plug a namespace into a bridge: %w", err)
	}
	return s.do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		at, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(eth0, at), netlink.LinkSetUp(eth0))
	})
}

// bareBridge are two namespaces on a bridge.
func (l *lab) bareBridge() (p pair, err error) {
	if p.client, err = l.newSpace(); err != nil {
		return p, err
	}
	if p.server, err = l.newSpace(); err != nil {
		return p, err
	}
	p.address = netip.MustParseAddr("192.0.2.2")
	return p, errors.Join(l.plug(p.client, "bare", "bare1", "192.0.2.1/24"), l.plug(p.server, "bare", "bare2", "192.0.2.2/24"))
}

// pods are two pods on as many machines, 1 or 2, that share a link.
func (l *lab) pods(name string, mode api.NetworkMode, machines int) (p pair, err error) {
	var networks []*network.Network
	var peers []network.Peer
	var spaces []space
	for i := 1; i <= machines; i++ {
		s, err := l.newSpace()
		if err != nil {
			return p, err
		}
		at := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		if err := l.plug(s, "link-"+name, fmt.Sprintf("%s%d", name, i), at.String()+"/24"); err != nil {
			return p, err
		}
		peer := network.Peer{
			Node: fmt.Sprintf("%s%d", name, i), Addresses: []netip.Addr{at},
			Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i), 0}), 24)},
		}
		n, err := l.newNetwork(s, peer, mode)
		if err != nil {
			return p, err
		}
		networks, peers, spaces = append(networks, n), append(peers, peer), append(spaces, s)
	}
	for i, n := range networks {
		others := append(append([]network.Peer{}, peers[:i]...), peers[i+1:]...)
		if err := spaces[i].do(func() error { n.Reach(others); return nil }); err != nil {
			return p, err
		}
	}
	if p.client, _, err = l.attach(spaces[0], networks[0], name+"-client"); err != nil {
		return p, err
	}
	p.server, p.address, err = l.attach(spaces[machines-1], networks[machines-1], name+"-server")
	return p, err
}

// newNetwork sets a pod network up on a machine.
func (l *lab) newNetwork(s space, self network.Peer, mode api.NetworkMode) (n *network.Network, err error) {
	err = s.do(func() error {
		n, err = network.New(network.Config{
			Cluster: "bench", Node: self.Node, ClusterCIDR: "198.18.0.0/16", Network: api.PodNetwork{Mode: mode},
			Addresses: self.Addresses, Dir: filepath.Join(l.dir, self.Node),
		})
		if err != nil {
			return err
		}
		return n.Setup([]string{self.Prefixes[0].String()})
	})
	if err == nil {
		l.undo = append(l.undo, func() error { return s.do(n.Teardown) })
	}
	return n, err
}

// attach makes a pod on a machine.
func (l *lab) attach(machine space, n *network.Network, id string) (s space, address netip.Addr, err error) {
	if s, err = l.newSpace(); err != nil {
		return s, address, err
	}
	sandbox := network.Sandbox{ID: id, Pod: "bench/" + id, Namespace: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.handle)}
	err = machine.do(func() error {
		addresses, err := n.Attach(context.Background(), sandbox)
		if err == nil {
			address = addresses[0]
		}
		return err
	})
	return s, address, err
}
