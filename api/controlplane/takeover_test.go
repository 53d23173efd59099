package controlplane

import (
	"strings"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/state/etcdtest"
	"github.com/k8sm/k8sm/api/statedir"
)

func TestDataOfAVersionThatIsTooFarAwayIsRefused(t *testing.T) {
	endpoint := "http://" + etcdtest.Start(t)
	c, access := settled(t, endpoint)
	if err := c.StateDir.Prepare(statedir.Spec{Now: time.Now(), ServerURL: "https://127.0.0.1:6443"}); err != nil {
		t.Fatal(err)
	}
	client, err := etcd.Dial(access)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	recorded := func() string {
		t.Helper()
		r, err := client.Get(t.Context(), state.KubernetesKey(c.ClusterName))
		if err != nil || len(r.Kvs) != 1 {
			t.Fatalf("%v, %v", r, err)
		}
		return string(r.Kvs[0].Value)
	}
	if err := c.claim(t.Context(), access); err != nil {
		t.Fatal(err)
	}
	if got := recorded(); got != api.KubernetesVersion {
		t.Errorf("recorded is %s, want %s", got, api.KubernetesVersion)
	}
	for _, far := range []string{"v1.2.0", "v1.999.0"} {
		if _, err := client.Put(t.Context(), state.KubernetesKey(c.ClusterName), far); err != nil {
			t.Fatal(err)
		}
		if err := c.claim(t.Context(), access); err == nil || !strings.Contains(err.Error(), far) || !strings.Contains(err.Error(), "snapshot") {
			t.Errorf("data of %s: %v", far, err)
		}
		if got := recorded(); got != far {
			t.Errorf("although it is refused, %s is recorded", got)
		}
	}
}
