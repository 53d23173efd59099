package nft

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netns"
	"sigs.k8s.io/knftables"
)

// TestMain makes the test binary the small program when it is executed as nft.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "nft" {
		os.Exit(Run(os.Args, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// before puts the small program before the machine's in the PATH.
func before(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "nft")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
}

// inNamespace moves the rest of the test into a network namespace of its own.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test's goroutine, and the namespace with it
	namespace, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { namespace.Close() })
}

// load has the machine's nft load rules.
func load(t *testing.T, rules string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// open returns what kube-proxy uses, of the nft that is first in the PATH.
func open(t *testing.T, family knftables.Family, table string) knftables.Interface {
	t.Helper()
	n, err := knftables.New(family, table)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// service renders a service as kube-proxy does: its rule has a map without a name.
func service(i int) string {
	return fmt.Sprintf(`
add chain ip kube-proxy service-%08X-default/s%[1]d/tcp/p
add rule ip kube-proxy service-%08[1]X-default/s%[1]d/tcp/p meta l4proto tcp dnat ip addr . port to numgen random mod 2 map { 0 : 192.0.2.1 . 80, 1 : 192.0.2.2 . 80 }
add element ip kube-proxy service-ips { 10.96.%d.%d . tcp . 80 : goto service-%08[1]X-default/s%[1]d/tcp/p }`, i, i/250, i%250+1)
}

const tables = `
add table ip kube-proxy { comment "rules for kube-proxy" ; }
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; comment "ClusterIP" ; }
add set ip kube-proxy cluster-ips { type ipv4_addr ; }
add set ip kube-proxy affinity-1 { type ipv4_addr ; flags dynamic,timeout ; timeout 10m ; }
add map ip kube-proxy hosts { type ipv4_addr : inet_service ; }
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain ip kube-proxy services
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services ip daddr { 10.0.0.1, 10.0.0.2 } drop
add rule ip kube-proxy services update @affinity-1 { ip saddr }
add element ip kube-proxy cluster-ips { 10.96.0.1, 10.96.0.2 }
add table ip6 kube-proxy
add chain ip6 kube-proxy of-the-other-family
add table ip other
add chain ip other of-the-other-table
add set ip other set-of-the-other-table { type ipv4_addr ; }
add table inet empty
`

func TestListHasTheNamesThatNftLists(t *testing.T) {
	inNamespace(t)
	rules := tables
	for i := range 300 { // more than the kernel sends at once
		rules += service(i)
	}
	load(t, rules)
	for _, table := range []struct {
		family knftables.Family
		name   string
		least  int
	}{{knftables.IPv4Family, "kube-proxy", 302}, {knftables.IPv6Family, "kube-proxy", 1}, {knftables.IPv4Family, "other", 1}, {knftables.InetFamily, "empty", 0}} {
		want, err := open(t, table.family, table.name).ListAll(t.Context())
		if err != nil || len(want["chain"]) != table.least {
			t.Fatalf("nft lists %d chains of %s %s, %v", len(want["chain"]), table.family, table.name, err)
		}
		machines := os.Getenv("PATH")
		before(t)
		got, err := open(t, table.family, table.name).ListAll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.SortSlices(func(a, b string) bool { return a < b })); diff != "" {
			t.Errorf("nft lists other names of %s %s (-nft +this):\n%s", table.family, table.name, diff)
		}
		t.Setenv("PATH", machines)
	}
}

func TestListOfATableThatIsNotThereFailsAsThatOfNft(t *testing.T) {
	inNamespace(t)
	before(t)
	if got, err := open(t, knftables.IPv4Family, "kube-proxy").ListAll(t.Context()); !knftables.IsNotFound(err) {
		t.Errorf("it lists %v, %v", got, err)
	}
}

// generation makes the table anew with chains of that letter.
func generation(letter string) (rules string, names []string) {
	rules = "add table ip kube-proxy; delete table ip kube-proxy; add table ip kube-proxy"
	for i := range 2000 {
		names = append(names, fmt.Sprintf("%s%d", letter, i))
		rules += "; add chain ip kube-proxy " + names[i]
	}
	return rules + "\n", slices.Sorted(slices.Values(names))
}

// alternate loads one of the rules after the other until the test ends.
func alternate(t *testing.T, rules ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	changes := exec.CommandContext(ctx, "nft", "-i")
	stdin, err := changes.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := changes.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := stdin.Write([]byte(rules[i%len(rules)])); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = changes.Wait() // it was killed
	})
}

func TestListIsThatOfOneMoment(t *testing.T) {
	inNamespace(t)
	a, inA := generation("a")
	b, inB := generation("b")
	load(t, a)
	alternate(t, a, b)
	seen := map[string]int{}
	for range 200 {
		names, err := read(families["ip"], "kube-proxy")
		if err != nil {
			seen[err.Error()]++ // Run leaves it to nft then
			continue
		}
		var got []string
		for _, n := range names {
			got = append(got, n.name)
		}
		slices.Sort(got)
		switch {
		case slices.Equal(got, inA):
			seen["a"]++
		case slices.Equal(got, inB):
			seen["b"]++
		default:
			t.Fatalf("%d names that were never there together", len(got))
		}
	}
	t.Log(seen)
	if seen["a"] == 0 || seen["b"] == 0 {
		t.Errorf("nothing changed: %v", seen)
	}
}

func TestAllElseIsTheMachinesNfts(t *testing.T) {
	machines := t.TempDir()
	script := "#!/bin/sh\necho \"$@\"; cat; echo oops >&2; exit 7\n"
	if err := os.WriteFile(filepath.Join(machines, "nft"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", strings.Join([]string{"/nonexistent", machines, "/usr/bin", "/bin"}, string(filepath.ListSeparator)))
	before(t)
	for _, args := range [][]string{
		{"-f", "-"}, {"--version"}, {"--json", "--terse", "list", "table", "ip"}, {"--json", "list", "table", "ip", "kube-proxy"},
		{"--json", "--terse", "list", "table", "netdev", "kube-proxy"}, {"--json", "--terse", "list", "chain", "ip", "kube-proxy"}, {},
	} {
		cmd := exec.CommandContext(t.Context(), "nft", args...)
		var out, errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("rules\n"), &out, &errs
		_ = cmd.Run()
		if out.String() != strings.Join(args, " ")+"\nrules\n" || errs.String() != "oops\n" || cmd.ProcessState.ExitCode() != 7 {
			t.Errorf("nft %q: %q, %q, %d", args, &out, &errs, cmd.ProcessState.ExitCode())
		}
	}
}

func TestMachineWithoutNftIsToldToInstallIt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	before(t)
	out, err := exec.CommandContext(t.Context(), "nft", "--version").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "install the package nftables") {
		t.Errorf("it says %q, %v", out, err)
	}
}

func TestNamesThatJSONCannotHoldAsTheyAreAreLeftToNft(t *testing.T) {
	for _, name := range []string{"", `a"b`, `a\b`, "a\nb", "ä"} {
		if out, err := render("ip", "kube-proxy", []named{{"chain", name}}); err == nil {
			t.Errorf("%q is rendered as %s", name, out)
		}
	}
}

// If a new kube-proxy wants more than names of this command, it must get more.
func TestKubeProxyUsesOnlyNamesOfTheListedTable(t *testing.T) {
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", "k8s.io/kubernetes/pkg/proxy/nftables").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]int{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, method := range []string{"ListAll", "List", "ListRules"} {
			calls[method] += strings.Count(string(text), "."+method+"(context")
		}
	}
	if want := map[string]int{"ListAll": 1, "List": 0, "ListRules": 0}; !maps.Equal(calls, want) {
		t.Errorf("kube-proxy calls %v, not %v", calls, want)
	}
}
