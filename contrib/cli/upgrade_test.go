package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/contrib/upgrade"
)

func TestPlanIsATableAndWhatIsInTheWay(t *testing.T) {
	p := upgrade.Plan{
		Target: upgrade.Versions{KM: "v2", Kubernetes: "v1.36.3", Etcd: "3.6.14"},
		Steps: []upgrade.Step{
			{Kind: "apiserver", Name: "10.0.0.5:6443", From: upgrade.Versions{KM: "v1", Kubernetes: "v1.35.4"}, To: upgrade.Versions{KM: "v2", Kubernetes: "v1.36.3"}},
			{Kind: "node", Name: "n1", What: "new settings"},
		},
		Blocks: []string{"one thing"}, Warnings: []string{"another thing"},
	}
	var out bytes.Buffer
	if err := printPlan(&out, "", p); err != nil {
		t.Fatal(err)
	}
	const want = `To km v2, Kubernetes v1.36.3, etcd 3.6.14:

STEP   PART        NAME            FROM                         TO
1      apiserver   10.0.0.5:6443   km v1, Kubernetes v1.35.4   km v2, Kubernetes v1.36.3
2      node        n1              <unknown>                    new settings

Upgrade one part after the other. The scheduler upgrades nodes by itself.

To know:
- another thing

In the way:
- one thing
`
	fields := func(text string) []string { return strings.Fields(text) }
	if diff := cmp.Diff(fields(want), fields(out.String())); diff != "" {
		t.Errorf("%s\n%s", diff, out.String())
	}
	out.Reset()
	if err := printPlan(&out, "json", p); err != nil {
		t.Fatal(err)
	}
	var again upgrade.Plan
	if err := json.Unmarshal(out.Bytes(), &again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, again); diff != "" {
		t.Error(diff)
	}
}

func TestDeprecatedAPIsInUseAreReadFromMetrics(t *testing.T) {
	families, err := parseMetrics(strings.NewReader(`# TYPE apiserver_requested_deprecated_apis gauge
apiserver_requested_deprecated_apis{group="flowcontrol.apiserver.k8s.io",removed_release="1.32",resource="flowschemas",subresource="",version="v1beta3"} 1
apiserver_requested_deprecated_apis{group="",removed_release="",resource="componentstatuses",subresource="",version="v1"} 1
apiserver_requested_deprecated_apis{group="gone",removed_release="1.30",resource="things",subresource="",version="v1"} 0
# TYPE k8sm_controlplane_build_info gauge
k8sm_controlplane_build_info{version="v1",kubernetes="v1.36.3"} 1
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []upgrade.API{{Name: "flowschemas.v1beta3.flowcontrol.apiserver.k8s.io", Removed: "1.32"}, {Name: "componentstatuses.v1"}}
	got := deprecated(deprecated(nil, families), families) // of two servers
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := labelOf(families, "k8sm_controlplane_build_info", "version"); got != "v1" {
		t.Errorf("km is %q", got)
	}
}

func TestSchedulerOnLoopbackIsAskedOnItsOwnMachineOnly(t *testing.T) {
	for identity, want := range map[string]string{
		"m1/7@127.0.0.1:10259": "127.0.0.1:10259", "m2/7@127.0.0.1:10259": "", "m2/7@10.0.0.6:10259": "10.0.0.6:10259", "m2/7": "",
	} {
		if got := addressFrom(identity, "m1"); got != want {
			t.Errorf("%s is asked at %q, want %q", identity, got, want)
		}
	}
}
