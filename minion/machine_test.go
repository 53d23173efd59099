package minion

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

func testPort(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

func TestAllocatableIsTheAgentsLessTheExecutors(t *testing.T) {
	machine := capacity{milliCPU: 8000, memory: 16 << 30, disk: 100 << 30}
	agent := map[string]float64{"cpus": 4, "mem": 4096, "disk": 10240}
	reserved, complaints, err := machine.reserve(agent, map[string]float64{"cpus": 0.1, "mem": 128},
		map[string]string{"memory.available": "100Mi", "nodefs.available": "1Gi", "pid.available": "5%"})
	want := map[string]string{
		"cpu":               "4100m",       // 8 - (4 - 0.1)
		"memory":            "12914262016", // 16 GiB - (4096 - 128) MiB - eviction threshold
		"ephemeral-storage": "95563022336", // 100 GiB - 10 GiB - eviction threshold
	}
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(want, reserved); diff != "" {
		t.Error(diff)
	}
	if len(complaints) > 0 {
		t.Errorf("complaints: %v", complaints)
	}
}

func TestAgentThatOffersMoreThanTheMachineHasIsAComplaint(t *testing.T) {
	machine := capacity{milliCPU: 2000, memory: 4 << 30, disk: 100 << 30}
	reserved, complaints, err := machine.reserve(map[string]float64{"cpus": 4, "mem": 4096, "disk": 1024}, nil, nil)
	if err != nil {
		t.Error(err)
	}
	if len(complaints) != 1 || !strings.Contains(complaints[0], "cpus 4 but this machine has only 2") {
		t.Errorf("complaints: %v", complaints)
	}
	if _, ok := reserved["cpu"]; ok || reserved["memory"] != "" || reserved["ephemeral-storage"] == "" {
		t.Errorf("reserved: %v", reserved)
	}
}

func TestNodeHasTheAgentsAddressIfTheMachineHasIt(t *testing.T) {
	give := inNamespace(t)
	if _, _, err := nodeIP("127.0.0.1:5051"); err == nil {
		t.Error("found an address on a machine that has only loopback")
	}
	give("192.0.2.9/24")
	for endpoint, says := range map[string]string{
		"192.0.2.9:5051": "", "127.0.0.1:5051": "", "[::1]:5051": "", "203.0.113.7:5051": "the agent advertises 203.0.113.7",
	} {
		ip, complaint, err := nodeIP(endpoint)
		if err != nil || ip.String() != "192.0.2.9" || !strings.Contains(complaint, says) || says == "" && complaint != "" {
			t.Errorf("agent at %s: %v, %q, %v", endpoint, ip, complaint, err)
		}
	}
}

func TestMachineHasSomething(t *testing.T) {
	got, err := machineCapacity(t.TempDir())
	if err != nil || got.milliCPU < 1000 || got.memory <= 0 || got.disk <= 0 {
		t.Errorf("%+v %v", got, err)
	}
}

// inNamespace moves the test's goroutine to a network namespace with one device. give adds an address to that.
func inNamespace(t *testing.T) (give func(string)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test's goroutine, and the namespace with it
	namespace, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { namespace.Close() })
	lan := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan"}}
	if err := errors.Join(netlink.LinkAdd(lan), netlink.LinkSetUp(lan)); err != nil {
		t.Fatal(err)
	}
	give = func(text string) {
		address, err := netlink.ParseAddr(text)
		if err == nil {
			err = netlink.AddrAdd(lan, address)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return give
}

func TestNodeHasAnAddressOfEachFamilyOfItsPods(t *testing.T) {
	give := inNamespace(t)
	give("192.0.2.9/24")
	four := net.ParseIP("192.0.2.9")
	if got, err := nodeIPs(four, "10.244.0.0/16,fd00:244::/48"); err == nil || !strings.Contains(err.Error(), "this machine has no global IPv6 address") {
		t.Errorf("without IPv6: %v %v", got, err)
	}
	give("2001:db8::9/64")
	for ranges, want := range map[string]string{
		"10.244.0.0/16": "[192.0.2.9]", "": "[192.0.2.9]", "fd00:244::/48": "[2001:db8::9]",
		"10.244.0.0/16,fd00:244::/48": "[192.0.2.9 2001:db8::9]", "fd00:244::/48,10.244.0.0/16": "[2001:db8::9 192.0.2.9]",
	} {
		if got, err := nodeIPs(four, ranges); err != nil || fmt.Sprint(got) != want {
			t.Errorf("for pods of %s: %v %v, want %s", ranges, got, err, want)
		}
	}
}
