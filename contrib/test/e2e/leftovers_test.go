package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// counters match the packet counters that iptables-save prints.
var counters = regexp.MustCompile(`\[\d+:\d+\]|^#.*`)

// leavesNothing runs a test that starts and stops a cluster, and compares the host before and after: iptables rules, links, routes,
// network namespaces and mounts, except below the cluster's directory.
func leavesNothing(t *testing.T, test func(t *testing.T)) {
	awaitAddresses(t)
	before := traces(t)
	t.Run("up", test)
	for _, line := range traces(t) {
		if !slices.Contains(before, line) {
			t.Errorf("the cluster left behind: %s", line)
		}
	}
}

// awaitAddresses waits until the kernel has finished duplicate address detection for the host's IPv6 addresses, up to two seconds
// after a link came up. It adds their routes only then.
func awaitAddresses(t *testing.T) {
	t.Helper()
	err := scratch.Until(t.Context(), 10*time.Second, func(ctx context.Context) error {
		out, err := exec.CommandContext(ctx, "ip", "-6", "-o", "address", "show", "tentative").Output()
		if err == nil && len(out) > 0 {
			err = fmt.Errorf("addresses are tentative: %s", out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// iptablesTable are the tables of nftables that iptables makes for its own.
var iptablesTable = regexp.MustCompile(`^table ip6? (filter|nat|mangle|raw|security)$`)

func traces(t *testing.T) []string {
	t.Helper()
	var lines []string
	for _, tool := range [][]string{{"iptables-save"}, {"ip6tables-save"}, {"nft", "list", "tables"}, {"ip", "-o", "link"}, {"ip", "route", "show", "table", "all"}, {"ip", "netns", "list"}} {
		out, err := exec.CommandContext(t.Context(), tool[0], tool[1:]...).Output()
		if err != nil {
			t.Fatalf("%v: %v", tool, err)
		}
		for _, line := range strings.Split(string(out), "\n") {
			if tool[0] == "ip" && tool[2] == "link" {
				// Index, flags and statistics of other links are not ours to compare; their names are.
				line, _, _ = strings.Cut(strings.TrimLeft(line, "0123456789: "), ":")
			}
			if tool[0] == "nft" && iptablesTable.MatchString(line) {
				continue // whose content iptables-save tells
			}
			// A table that exists and is empty is as good as none.
			if line = counters.ReplaceAllString(line, ""); !strings.HasPrefix(line, "*") && line != "COMMIT" && !strings.HasSuffix(strings.TrimSpace(line), "ACCEPT") {
				lines = append(lines, tool[0]+" "+line)
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, "k8sm") {
			lines = append(lines, "mount "+line)
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}
