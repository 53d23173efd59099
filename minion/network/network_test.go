package network

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	dockernetwork "github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/vishvananda/netlink"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/engine"
)

// testDocker starts a private Docker Engine, which makes bridges on this machine.
func testDocker(t *testing.T) *client.Client {
	if os.Geteuid() != 0 {
		t.Skip("a Docker Engine needs root")
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Skip("there is no dockerd on this machine")
	}
	dir, err := os.MkdirTemp("/tmp", "e")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	e, err := engine.Start(t.Context(), engine.Config{Dir: dir})
	must(t, err)
	t.Cleanup(func() {
		if err := e.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	docker, err := client.NewClientWithOpts(client.WithHost(e.Host()), client.WithAPIVersionNegotiation())
	must(t, err)
	t.Cleanup(func() { docker.Close() })
	return docker
}

// The ranges are no one else's: 198.18.0.0/15 is for tests (RFC 2544).
func TestNetworkOnARealEngineComesAndGoes(t *testing.T) {
	docker := testDocker(t)
	cfg := Config{Cluster: "test", Node: "agent-1", ClusterCIDR: "198.18.0.0/16", Docker: docker}
	n, err := New(cfg)
	must(t, err)
	t.Cleanup(func() { _ = n.Teardown(context.WithoutCancel(t.Context())) })
	if name, err := n.DockerNetwork(); err == nil {
		t.Errorf("the network %s is ready before it was set up", name)
	}
	must(t, n.Adopt(t.Context())) // there is nothing to adopt
	for _, cidrs := range [][]string{
		{"fd00:7::/64", "198.18.1.0/24"},
		{"198.18.1.0/24"}, // again
		{"198.18.2.0/24"}, // the node was given another range
	} {
		must(t, n.Setup(t.Context(), cidrs))
		want := strings.Replace(cidrs[len(cidrs)-1], ".0/24", ".1/24", 1)
		if got := bridgeAddress(t, n); got != want {
			t.Errorf("the bridge has %s, want %s", got, want)
		}
	}

	next, err := New(cfg) // a process after this one
	must(t, err)
	must(t, next.Adopt(t.Context()))
	if name, err := next.DockerNetwork(); err != nil {
		t.Errorf("the network that is there was not adopted: %s %v", name, err)
	}
	must(t, next.Teardown(t.Context()))
	must(t, next.Teardown(t.Context()))
	if _, err := netlink.LinkByName(n.planFor("").Bridge()); err == nil {
		t.Error("the bridge is left")
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	must(t, err)
	if slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == cfg.ClusterCIDR }) {
		t.Error("the unreachable route is left")
	}
}

func TestForeignNetworkOfTheSameNameIsLeftAlone(t *testing.T) {
	docker := testDocker(t)
	n, err := New(Config{Cluster: "test", Node: "agent-2", Docker: docker})
	must(t, err)
	name := n.planFor("").Network()
	_, err = docker.NetworkCreate(t.Context(), name, dockernetwork.CreateOptions{
		Driver: "bridge", Labels: map[string]string{api.DockerLabelFramework: "another"},
		IPAM: &dockernetwork.IPAM{Config: []dockernetwork.IPAMConfig{{Subnet: "198.19.2.0/24"}}},
	})
	must(t, err)
	t.Cleanup(func() {
		if err := docker.NetworkRemove(context.WithoutCancel(t.Context()), name); err != nil {
			t.Error(err)
		}
	})
	for what, err := range map[string]error{
		"Setup": n.Setup(t.Context(), []string{"198.19.2.0/24"}), "Teardown": n.Teardown(t.Context()),
	} {
		if err == nil || !strings.Contains(err.Error(), "it is not of node agent-2") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestNodeWithoutIPv4RangeIsAnError(t *testing.T) {
	n := &Network{}
	for _, cidrs := range [][]string{nil, {"fd00::/64"}, {"nonsense"}} {
		if err := n.Setup(t.Context(), cidrs); err == nil {
			t.Errorf("%v was accepted", cidrs)
		}
	}
}

func bridgeAddress(t *testing.T, n *Network) string {
	t.Helper()
	link, err := netlink.LinkByName(n.planFor("").Bridge())
	must(t, err)
	addresses, err := netlink.AddrList(link, netlink.FAMILY_V4)
	must(t, err)
	if len(addresses) != 1 {
		t.Fatalf("the bridge has %v", addresses)
	}
	return addresses[0].IPNet.String()
}
