package assigner

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/state/etcdtest"
)

// operator runs km assigner beside a cluster of one node.
type operator struct {
	t       *testing.T
	cluster Cluster
	names   []string // of the clusters that were asked for
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	client := fake.NewClientset(
		&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: api.MinionConfigNamespace, Name: api.MinionConfigName},
			Data:       map[string]string{api.MinionConfigKey: `{"clusterCIDR":"10.244.0.0/16","serviceCIDR":"10.96.0.0/16"}`},
		},
		&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"172.20.0.0/24"}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeHostName, Address: "n1"}, {Type: corev1.NodeInternalIP, Address: "192.168.7.1"},
			}},
		},
		&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: api.AddressPoolsNamespace, Name: api.AddressPoolsName},
			Data:       map[string]string{api.AddressPoolsKey: `{"prefixes":[],"masters":["192.168.7.2"]}`},
		},
		&discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"192.168.7.3"}}},
		},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a", UID: "uid-a"}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b", UID: "uid-later"}},
	)
	return &operator{t: t, cluster: Cluster{KV: open(t, etcdtest.Start(t)).Folder(Folder), Kubernetes: client, Close: func() {}}}
}

// run returns what the command prints, or its error.
func (o *operator) run(stdin string, args ...string) string {
	o.t.Helper()
	cmd := NewCommand(func(_ context.Context, name string) (Cluster, error) {
		o.names = append(o.names, name)
		return o.cluster, nil
	}, "k8sm")
	var out bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if err := cmd.ExecuteContext(o.t.Context()); err != nil {
		return out.String() + "error: " + err.Error() + "\n"
	}
	return out.String()
}

// operatorStep is a command of an operator, and what it prints.
type operatorStep struct {
	do    []string
	stdin string
	then  func()
	want  string
}

// otherPools have one address fewer than the pods of the test have.
const otherPools = `pools: [{name: office, addresses: [10.50.0.0/30]}, {name: home, addresses: [10.70.0.1]}]`

func TestOperatorImportsListsAndReleases(t *testing.T) {
	o := newOperator(t)
	file := filepath.Join(t.TempDir(), "pools.yaml")
	if err := os.WriteFile(file, []byte(twoPools), 0o600); err != nil {
		t.Fatal(err)
	}
	a := New(o.cluster.KV)
	o.take(t, []operatorStep{
		{do: []string{"list"}, want: "no pools; import some with km assigner import\n"},
		{do: []string{"import", file, "--dry-run"}, want: "pool lab added with 3 addresses\npool office added with 2 addresses\n"},
		{do: []string{"list", "-o", "json"}, want: "[]\n"},
		{do: []string{"import", file}, want: "pool lab added with 3 addresses\npool office added with 2 addresses\n", then: func() {
			ask(t, a, claim("a", "office", ""))
			ask(t, a, claim("b", "lab", ""))
			ask(t, a, claim("c", "lab", ""))
		}},
		{do: []string{"list"}, want: `POOL     USED   FREE   NAMESPACES   ADDRESSES
lab      2      1      <all>        10.60.0.5-10.60.0.7, 10.60.0.9 but not 10.60.0.6
office   1      1      <all>        10.50.0.0/30

ADDRESS           POD         UID
lab/10.60.0.5     default/b   uid-b
lab/10.60.0.7     default/c   uid-c
office/10.50.0.1  default/a   uid-a
`},
		{do: []string{"import", "-"}, stdin: otherPools, want: "error: cannot import -: cannot take away addresses that pods have: " +
			"10.60.0.5 of pool lab, in use by pod default/b; 10.60.0.7 of pool lab, in use by pod default/c; " +
			"delete these pods first, or leave the addresses in their pool\n"},
		{do: []string{"import", "-"}, stdin: "pools: [{name: x, addresses: [10.244.7.1, 10.96.0.1, 172.20.0.9, 192.168.7.1-192.168.7.3]}]",
			want: "error: cannot import -: pool x overlaps 10.244.0.0/16, which is the cluster's pod range\n" +
				"pool x overlaps 10.96.0.0/16, which is the cluster's service range\npool x overlaps 172.20.0.0/24, which is the pod range of node n1\n" +
				"pool x overlaps 192.168.7.1/32, which is an address of node n1\npool x overlaps 192.168.7.3/32, which is the API server's address\n" +
				"pool x overlaps 192.168.7.2/32, which is an address of a Mesos master or of ZooKeeper\n"},
		{do: []string{"import", "-"}, stdin: "pools: [{name: x, addresses: ['2001:db8::1']}]",
			want: "error: cannot import -: pool x is of an IP family that the cluster's pods do not use, so nodes could not route to it\n"},
		{do: []string{"import", "-"}, stdin: "pool: []", want: "error: cannot import -: it is not a list of pools: error unmarshaling JSON: " +
			"while decoding JSON: json: unknown field \"pool\"\n"},
		{do: []string{"import", "/nowhere"}, want: "error: cannot read the pools: open /nowhere: no such file or directory\n"},
	})
	o.take(t, []operatorStep{
		{do: []string{"release", "office/10.50.0.1"}, want: "error: cannot release office/10.50.0.1: its pod default/a exists: delete the pod\n"},
		{do: []string{"release", "office/10.50.0.2"}, want: "error: no pod has address 10.50.0.2 of pool office\n"},
		{do: []string{"release", "lab/10.50.0.1"}, want: "error: no pod has address 10.50.0.1 of pool lab\n"},
		{do: []string{"release", "b"}, want: "released lab/10.60.0.5 of pod default/b\n"}, // another pod has its name now
		{do: []string{"release", "default/c"}, want: "released lab/10.60.0.7 of pod default/c\n"},
		{do: []string{"release", "c"}, want: "error: pod default/c has no address of a pool\n"},
		{do: []string{"import", "-"}, stdin: otherPools, want: "pool home added with 1 addresses\npool lab removed with its 3 addresses\n"},
		{do: []string{"release", "a", "--force"}, want: "released office/10.50.0.1 of pod default/a\n"},
		{do: []string{"import", "-"}, stdin: otherPools, want: "no changes: the pools match the file\n"},
		{do: []string{"list", "-o", "yaml"}, want: "error: cannot use --output=yaml: give table or json\n"},
	})
}

func TestOperatorLimitsPoolsToNamespaces(t *testing.T) {
	o := newOperator(t)
	a := New(o.cluster.KV)
	pool := func(rest string) string { return "pools: [{name: office, addresses: [10.50.0.0/30]" + rest + "}]" }
	o.take(t, []operatorStep{
		{do: []string{"import", "-"}, stdin: pool(""), want: "pool office added with 2 addresses\n", then: func() {
			ask(t, a, claim("a", "office", ""))
		}},
		{do: []string{"import", "-"}, stdin: pool(", namespaces: [web, mail]"), want: "pool office changed: +0 -0, 2 addresses now, " +
			"for pods of namespaces: web, mail; 1 pods of other namespaces keep their addresses until they end\n"},
		{do: []string{"import", "-"}, stdin: pool(", namespaces: [mail, web]"), want: "no changes: the pools match the file\n"},
		{do: []string{"list"}, want: "POOL USED FREE NAMESPACES ADDRESSES\noffice 1 1 web, mail 10.50.0.0/30\n\nADDRESS POD UID\noffice/10.50.0.1 default/a uid-a\n"},
		{do: []string{"release", "a", "--force"}, want: "released office/10.50.0.1 of pod default/a\n", then: func() {
			if got := ask(t, a, claim("a", "office", "")); !strings.Contains(got, "is not for pods in namespace default") {
				t.Errorf("a pod of another namespace gets %s", got)
			}
		}},
	})
	var listed []PoolUse
	if err := json.Unmarshal([]byte(o.run("", "list", "-o", "json")), &listed); err != nil || len(listed) != 1 || len(listed[0].Namespaces) != 2 {
		t.Errorf("in JSON: %+v %v", listed, err)
	}
	o.take(t, []operatorStep{
		{do: []string{"import", "-"}, stdin: pool(""), want: "pool office changed: +0 -0, 2 addresses now, for pods of namespaces: <all>\n", then: func() {
			ask(t, a, claim("a", "office", "10.50.0.2"))
		}},
		{do: []string{"list"}, want: "POOL USED FREE NAMESPACES ADDRESSES\noffice 1 1 <all> 10.50.0.0/30\n\nADDRESS POD UID\noffice/10.50.0.2 default/a uid-a\n"},
	})
}

// take takes the steps.
func (o *operator) take(t *testing.T, steps []operatorStep) {
	t.Helper()
	for _, step := range steps {
		got := o.run(step.stdin, step.do...)
		if fields(got) != fields(step.want) {
			t.Errorf("%v prints\n%swant\n%s", step.do, got, step.want)
		}
		if step.then != nil {
			step.then()
		}
	}
}

// fields is a text without the widths of its columns.
func fields(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.Join(strings.Fields(line), " ")
	}
	return strings.Join(lines, "\n")
}

func TestCommandsAreForTheClusterThatIsNamed(t *testing.T) {
	o := newOperator(t)
	o.run("", "list")
	o.run("", "list", "--cluster-name=other")
	if len(o.names) != 2 || o.names[0] != "k8sm" || o.names[1] != "other" {
		t.Errorf("asked for %q", o.names)
	}
}

func TestExamplesFitTogether(t *testing.T) {
	o := newOperator(t)
	if got := o.run("", "import", "../examples/pools.yaml"); !strings.Contains(got, "pool license added with 10 addresses\npool partners added with 248 addresses\n") {
		t.Errorf("the example of pools: %s", got)
	}
	data, err := os.ReadFile("../examples/static-address.json")
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := json.Unmarshal(data, &pod); err != nil {
		t.Fatal(err)
	}
	want := pod.Annotations[api.AnnotationIP]
	if got := ask(t, New(o.cluster.KV), claim(pod.Name, pod.Annotations[api.AnnotationIPPool], want)); got != want || want == "" {
		t.Errorf("the example's pod gets %s, and asks for %s", got, want)
	}
}
