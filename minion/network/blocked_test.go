package network

import (
	"os/exec"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/k8sm/k8sm/api"
)

func TestLinkThatDropsTheAddressesOfPodsIsFoundOut(t *testing.T) {
	inNamespace(t)
	one := newMachine(t, "one", lan{"lan", "192.0.2.1/24", ""}, "198.18.1.0/24", api.PodNetwork{})
	two := newMachine(t, "two", lan{"lan", "192.0.2.2/24", ""}, "198.18.2.0/24", api.PodNetwork{})
	away := Peer{Node: "away", Addresses: addresses("192.0.2.3"), Prefixes: prefixes("198.18.3.0/24")}
	blocked := func(what string, want ...string) {
		t.Helper()
		one.do(t, func() {
			got, err := one.network.Blocked(t.Context())
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %v %v, want %v", what, got, err, want)
			}
		})
	}
	acquaint(t, one, two)
	one.do(t, func() { one.network.Reach([]Peer{two.peer, away}) })
	blocked("a node without pods does not ask")
	newPodOn(t, one, "first")
	blocked("the other node has no pods")
	newPodOn(t, two, "second")
	blocked("the other node has a pod")

	drop := []string{"-t", "raw", "-A", "PREROUTING", "-i", "eth0", "!", "-s", "192.0.2.0/24", "-j", "DROP"}
	two.do(t, func() { run(t, "iptables", drop...) })
	blocked("what has addresses of pods is dropped", "two")
	two.do(t, func() {
		eth0, err := netlink.LinkByName("eth0")
		must(t, err)
		must(t, netlink.LinkSetDown(eth0))
	})
	blocked("the other machine is away")
}

func TestOtherPacketsAnswerNoRequest(t *testing.T) {
	for name, packet := range map[string][]byte{
		"nothing":                     nil,
		"a reply to another":          {0, 0, 0, 0, 0, 8, 0, 1},
		"a request":                   {8, 0, 0, 0, 0, 7, 0, 1},
		"an error without a request":  {3, 1, 0, 0, 0, 0, 0, 0},
		"an error with half a header": {3, 1, 0, 0, 0, 0, 0, 0, 0x45, 0, 0},
	} {
		if number, ok := answerTo(7, packet); ok {
			t.Errorf("%s answers request %d", name, number)
		}
	}
}

func run(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v %s", program, args, err, out)
	}
}
