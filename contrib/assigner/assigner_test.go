package assigner

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/state/etcdtest"
)

// everything lets pools of both families be, and overlaps nothing.
var everything = Surroundings{IPv4: true, IPv6: true}

func open(t *testing.T, etcd string) *state.Store {
	t.Helper()
	store, err := state.Open(t.Context(), state.Config{Endpoints: []string{"http://" + etcd}, Name: "k8sm"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

func assignerOn(t *testing.T, etcd string) *Assigner {
	t.Helper()
	return New(open(t, etcd).Folder(Folder))
}

func load(t *testing.T, a *Assigner, text string) {
	t.Helper()
	pools, err := ParsePools([]byte(text))
	if err == nil {
		_, err = a.Import(t.Context(), pools, everything, false)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func claim(pod, pool, ip string) api.AddressClaim {
	return api.AddressClaim{Pod: api.PodKey{Namespace: "default", Name: pod}, UID: types.UID("uid-" + pod), Pool: pool, IP: ip}
}

// ask is one claim, answered by its address or else the problem.
func ask(t *testing.T, a *Assigner, c api.AddressClaim) string {
	t.Helper()
	answers := a.Assign(t.Context(), []api.AddressClaim{c})
	if len(answers) != 1 || answers[0].UID != c.UID || (answers[0].IP == "") == (answers[0].Problem == "") {
		t.Fatalf("answers: %+v", answers)
	}
	return answers[0].IP + answers[0].Problem
}

const twoPools = `pools:
- name: office
  addresses: [10.50.0.0/30]
- name: lab
  addresses: [10.60.0.5-10.60.0.7, "10.60.0.9"]
  exclude: [10.60.0.6]
`

func TestPodGetsAFreeAddressOfItsPoolAndKeepsIt(t *testing.T) {
	a := assignerOn(t, etcdtest.Start(t))
	load(t, a, twoPools)
	for _, step := range []struct{ pod, pool, ip, want string }{
		{"a", "office", "", "10.50.0.1"},
		{"b", "office", "", "10.50.0.2"},
		{"a", "office", "", "10.50.0.1"}, // as after a crash between the assignment and the binding
		{"c", "office", "", "address pool office has no free address: all 2 are in use"},
		{"c", "lab", "", "10.60.0.5"},
		{"d", "lab", "10.60.0.9", "10.60.0.9"},
		{"d", "lab", "", "10.60.0.9"},
		{"e", "lab", "10.60.0.9", "address 10.60.0.9 of pool lab is in use by pod default/d"},
		{"e", "lab", "10.60.0.6", "address 10.60.0.6 (annotation k8sm.io/ip) is not in pool lab"},
		{"e", "lab", "10.50.0.2", "address 10.50.0.2 (annotation k8sm.io/ip) is not in pool lab"},
		{"e", "home", "", "there is no address pool home (annotation k8sm.io/ip-pool)"},
		{"c", "lab", "10.60.0.7", "10.60.0.7"}, // it changed its mind while it was pending
		{"e", "lab", "", "10.60.0.5"},          // which is free again
	} {
		if got := ask(t, a, claim(step.pod, step.pool, step.ip)); got != step.want {
			t.Errorf("%s asks for %s %s and gets %q, want %q", step.pod, step.pool, step.ip, got, step.want)
		}
	}
	if err := a.Release(t.Context(), "uid-b"); err != nil {
		t.Fatal(err)
	}
	if err := a.Release(t.Context(), "uid-b"); err != nil {
		t.Errorf("a second release: %v", err)
	}
	released, err := a.Keep(t.Context(), []types.UID{"uid-a", "uid-d", "uid-e", "uid-z"})
	want := []api.PodKey{{Namespace: "default", Name: "c"}}
	if diff := cmp.Diff(want, released); err != nil || diff != "" {
		t.Errorf("kept all but c: %v %s", err, diff)
	}
	if got := holders(t, a); got != "10.50.0.1=a 10.60.0.5=e 10.60.0.9=d" {
		t.Errorf("in use: %s", got)
	}
}

// Pods of other namespaces get nothing of a pool, learn nothing of who has its addresses, and keep those that they have.
func TestPoolIsForItsNamespacesOnly(t *testing.T) {
	a := assignerOn(t, etcdtest.Start(t))
	const before, after = "pools: [{name: office, addresses: [10.50.0.0/29]}]", "pools: [{name: office, addresses: [10.50.0.0/29], namespaces: [web]}]"
	load(t, a, before)
	of := func(namespace, pod, ip string) api.AddressClaim {
		c := claim(namespace+"-"+pod, "office", ip)
		c.Pod.Namespace = namespace
		return c
	}
	if got := ask(t, a, of("other", "early", "")); got != "10.50.0.1" {
		t.Fatalf("before: %s", got)
	}
	load(t, a, after)
	const refused = "address pool office (annotation k8sm.io/ip-pool) is not for pods in namespace other: use another pool, " +
		"or have the namespace added to the pool (km assigner import)"
	for _, step := range []struct {
		claim api.AddressClaim
		want  string
	}{
		{of("web", "a", ""), "10.50.0.2"},
		{of("web", "b", "10.50.0.5"), "10.50.0.5"},
		{of("other", "thief", ""), refused},
		{of("other", "thief", "10.50.0.4"), refused},
		{of("other", "thief", "10.50.0.5"), refused}, // not: in use by pod web/b
		{of("other", "early", ""), "10.50.0.1"},
		{of("other", "early", "10.50.0.1"), "10.50.0.1"},
		{of("other", "early", "10.50.0.3"), refused},
		{of("other", "early", ""), "10.50.0.1"},
	} {
		if got := ask(t, a, step.claim); got != step.want {
			t.Errorf("%s asks for %q and gets %q, want %q", step.claim.Pod, step.claim.IP, got, step.want)
		}
	}
	if err := a.Release(t.Context(), of("other", "early", "").UID); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, a, of("other", "early", "")); got != refused {
		t.Errorf("a pod that gave its address back gets %q", got)
	}
}

func holders(t *testing.T, a *Assigner) string {
	t.Helper()
	pools, err := a.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var uses []AddressUse
	for _, p := range pools {
		uses = append(uses, p.Holders...)
		if p.Size != p.Used+p.Free || p.Used != len(p.Holders) {
			t.Errorf("pool %s: %+v", p.Name, p)
		}
	}
	slices.SortFunc(uses, func(a, b AddressUse) int { return a.Address.Compare(b.Address) })
	var texts []string
	for _, u := range uses {
		texts = append(texts, u.Address.String()+"="+u.Name)
	}
	return strings.Join(texts, " ")
}

func TestRacingAssignersGiveNoAddressTwice(t *testing.T) {
	etcd := etcdtest.Start(t)
	assigners := []*Assigner{assignerOn(t, etcd), assignerOn(t, etcd), assignerOn(t, etcd)}
	load(t, assigners[0], "pools: [{name: office, addresses: [10.50.0.1-10.50.0.20]}]")
	var mu sync.Mutex // guards the next two
	got := map[string][]string{}
	refused := 0
	var racing sync.WaitGroup
	for _, a := range assigners {
		racing.Go(func() {
			for i := range 25 { // all ask for the same 25 pods
				c := claim(fmt.Sprintf("p%d", i), "office", "")
				answer := a.Assign(t.Context(), []api.AddressClaim{c})[0]
				mu.Lock()
				switch {
				case answer.IP != "":
					if !slices.Contains(got[answer.IP], c.Pod.Name) {
						got[answer.IP] = append(got[answer.IP], c.Pod.Name)
					}
				case strings.Contains(answer.Problem, "no free address"):
					refused++
				default:
					t.Errorf("%s: %s", c.Pod, answer.Problem)
				}
				mu.Unlock()
			}
		})
	}
	racing.Wait()
	pods := map[string]bool{}
	for address, have := range got {
		if len(have) != 1 || pods[have[0]] {
			t.Errorf("%s was given to %v", address, have)
		}
		pods[have[0]] = true
	}
	if len(got) != 20 || refused != 3*5 {
		t.Errorf("%d addresses of 20 were given out, and %d of 15 asked in vain", len(got), refused)
	}
}

// interrupted is an etcd of which the answer to the n-th transaction is lost, as for an assigner that is killed there.
type interrupted struct {
	clientv3.KV
	left   *int
	before bool // lost before it came to etcd
}

type interruptedTxn struct {
	clientv3.Txn
	kv interrupted
}

func (kv interrupted) Txn(ctx context.Context) clientv3.Txn {
	return interruptedTxn{kv.KV.Txn(ctx), kv}
}
func (t interruptedTxn) If(c ...clientv3.Cmp) clientv3.Txn {
	return interruptedTxn{t.Txn.If(c...), t.kv}
}
func (t interruptedTxn) Then(o ...clientv3.Op) clientv3.Txn {
	return interruptedTxn{t.Txn.Then(o...), t.kv}
}

func (t interruptedTxn) Commit() (*clientv3.TxnResponse, error) {
	*t.kv.left--
	if *t.kv.left != 0 {
		return t.Txn.Commit()
	}
	if !t.kv.before {
		if _, err := t.Txn.Commit(); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("the connection broke")
}

func TestCrashAtAnyWriteNeitherLosesAnAddressNorGivesItTwice(t *testing.T) {
	etcd := etcdtest.Start(t)
	sound := assignerOn(t, etcd)
	load(t, sound, "pools: [{name: office, addresses: [10.50.0.1-10.50.0.3]}]")
	for _, before := range []bool{true, false} {
		for at := 1; at <= 3; at++ { // the look, and the two assignments
			left := at
			broken := New(interrupted{open(t, etcd).Folder(Folder), &left, before})
			answers := broken.Assign(t.Context(), []api.AddressClaim{claim("a", "office", ""), claim("b", "office", "")})
			if !strings.Contains(answers[1].Problem, "the connection broke") {
				t.Fatalf("at %d: %+v", at, answers)
			}
			// The one that follows asks for the same and for another.
			var got []string
			for _, pod := range []string{"c", "b", "a"} {
				got = append(got, ask(t, sound, claim(pod, "office", "")))
			}
			slices.Sort(got)
			if diff := cmp.Diff([]string{"10.50.0.1", "10.50.0.2", "10.50.0.3"}, got); diff != "" {
				t.Errorf("interrupted at %d, before: %t: %s", at, before, diff)
			}
			if released, err := sound.Keep(t.Context(), nil); err != nil || len(released) != 3 {
				t.Errorf("released %v, %v", released, err)
			}
		}
	}
}

func TestSchedulerThatDoesNotLeadAnyMoreGivesNothingOut(t *testing.T) {
	etcd := etcdtest.Start(t)
	first, second := open(t, etcd), open(t, etcd)
	a := New(first.Folder(Folder))
	lost, err := first.Lead(t.Context(), "first")
	if err != nil {
		t.Fatal(err)
	}
	load(t, a, twoPools)
	if got := ask(t, a, claim("a", "office", "")); got != "10.50.0.1" {
		t.Fatalf("the leader got %s", got)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + etcd}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	leases, err := client.Leases(t.Context())
	if err != nil || len(leases.Leases) != 1 {
		t.Fatalf("leases: %v, %v", leases, err)
	}
	if _, err := client.Revoke(t.Context(), leases.Leases[0].ID); err != nil {
		t.Fatal(err)
	}
	<-lost
	if got := ask(t, a, claim("b", "office", "")); !strings.Contains(got, "does not lead any more") {
		t.Errorf("one that leads no more got %q", got)
	}
	if err := a.Release(t.Context(), "uid-a"); !errors.Is(err, errBusy) {
		t.Errorf("one that leads no more released: %v", err)
	}
	if got := holders(t, New(second.Folder(Folder))); got != "10.50.0.1=a" {
		t.Errorf("in use: %s", got)
	}
}

func TestImportIsDeclarativeAndSparesWhatIsInUse(t *testing.T) {
	etcd := etcdtest.Start(t)
	a := assignerOn(t, etcd)
	around := Surroundings{IPv4: true, Taken: []Taken{
		{netip.MustParsePrefix("10.244.0.0/16"), "the cluster's pod range"}, {netip.MustParsePrefix("10.0.0.9/32"), "an address of node n1"},
	}}
	for _, step := range []struct{ text, want, fails string }{
		{text: twoPools, want: "[{lab 0 3 3 0} {office 0 2 2 0}]"},
		{text: twoPools, want: "[]"},
		{text: "pools: [{name: office, addresses: [10.50.0.0/29]}, {name: new, addresses: [10.70.0.1]}]",
			want: "[{lab 3 0 0 3} {new 0 1 1 0} {office 2 6 4 0}]"},
		{text: "pools: [{name: office, addresses: [10.50.0.2-10.50.0.9]}]",
			fails: "cannot take away addresses that pods have: 10.50.0.1 of pool office, in use by pod default/a"},
		{text: "pools: []", fails: "10.50.0.1 of pool office, in use by pod default/a"},
		{text: "pools: [{name: other, addresses: [10.50.0.0/29]}]", fails: "10.50.0.1 of pool office"},
		{text: "pools: [{name: office, addresses: [10.50.0.0/29]}, {name: x, addresses: [10.244.1.7]}, {name: z, addresses: [10.0.0.8-10.0.0.10]}]",
			fails: "pool x overlaps 10.244.0.0/16, which is the cluster's pod range\npool z overlaps 10.0.0.9/32, which is an address of node n1"},
		{text: "pools: [{name: six, addresses: ['2001:db8::/120']}]", fails: "pool six is of an IP family that the cluster's pods do not use"},
		{text: "pools: [{name: office, addresses: [10.50.0.0/30]}]", want: "[{new 1 0 0 1} {office 6 2 0 4}]"},
	} {
		pools, err := ParsePools([]byte(step.text))
		if err != nil {
			t.Fatal(err)
		}
		before, err := a.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		dry, dryErr := a.Import(t.Context(), pools, around, true)
		if after, err := a.List(t.Context()); err != nil || !reflect.DeepEqual(before, after) {
			t.Errorf("a dry run of %q changed something: %v", step.text, err)
		}
		changes, err := a.Import(t.Context(), pools, around, false)
		if fmt.Sprint(dry, dryErr) != fmt.Sprint(changes, err) {
			t.Errorf("%q says %v, %v, and its dry run %v, %v", step.text, changes, err, dry, dryErr)
		}
		if step.fails != "" {
			if err == nil || !strings.Contains(err.Error(), step.fails) {
				t.Errorf("%q: %v, want %q", step.text, err, step.fails)
			}
			if after, err := a.List(t.Context()); err != nil || !reflect.DeepEqual(before, after) {
				t.Errorf("%q was refused and changed something: %v", step.text, err)
			}
			continue
		}
		var numbers []string
		for _, c := range changes {
			numbers = append(numbers, fmt.Sprintf("{%s %d %d %d %d}", c.Pool, c.Before, c.After, c.Added, c.Removed))
		}
		if got := fmt.Sprint(numbers); err != nil || got != step.want {
			t.Errorf("%q changes %s, %v, want %s", step.text, got, err, step.want)
		}
		ask(t, a, claim("a", "office", ""))
	}
}

func TestImportHoldsAgainstAnAssignmentBesideIt(t *testing.T) {
	etcd := etcdtest.Start(t)
	sound := assignerOn(t, etcd)
	load(t, sound, twoPools)
	// The pod gets its address after the import has looked, and before it writes.
	a := New(meanwhile{open(t, etcd).Folder(Folder), func() {
		if got := ask(t, sound, claim("a", "office", "")); got != "10.50.0.1" {
			t.Errorf("beside an import: %s", got)
		}
	}})
	_, err := a.Import(t.Context(), nil, everything, false)
	if err == nil || !strings.Contains(err.Error(), "in use by pod default/a") {
		t.Errorf("a pool was removed under a pod: %v", err)
	}
	if got := holders(t, sound); got != "10.50.0.1=a" {
		t.Errorf("in use: %s", got)
	}
}

// meanwhile is an etcd to which something happens before the first transaction that writes pools.
type meanwhile struct {
	clientv3.KV
	happens func()
}

type meanwhileTxn struct {
	clientv3.Txn
	happens func()
}

func (kv meanwhile) Txn(ctx context.Context) clientv3.Txn {
	return meanwhileTxn{kv.KV.Txn(ctx), kv.happens}
}
func (t meanwhileTxn) If(c ...clientv3.Cmp) clientv3.Txn {
	return meanwhileTxn{t.Txn.If(c...), t.happens}
}
func (t meanwhileTxn) Then(o ...clientv3.Op) clientv3.Txn {
	if o[0].IsPut() {
		t.happens()
	}
	return t.Txn.Then(o...)
}
