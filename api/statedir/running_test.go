package statedir

import (
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRunningClusterIsFoundWhileItIsUp(t *testing.T) {
	d := Dir(t.TempDir())
	if err := d.RemoveRunning(); err != nil {
		t.Errorf("there is nothing to remove: %v", err)
	}
	if r, err := d.Running(); !errors.Is(err, ErrNoCluster) {
		t.Errorf("before: %+v, %v", r, err)
	}
	want := Running{
		PID: 7, Version: "v0.1.0", Kubeconfig: d.AdminKubeconfig(), MesosMaster: "http://127.0.0.1:5050", MesosPrincipal: "k8sm",
		MesosSecretFile: "/var/lib/k8sm/mesos/secret", Status: "127.0.0.1:10259",
		Nodes: []RunningNode{{Name: "n1", DockerHost: "unix:///var/run/docker.sock"}, {Name: "n2", DockerHost: "unix:///x"}},
	}
	if err := d.WriteRunning(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.Running()
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v, -written +read:\n%s", err, diff)
	}
	if err := d.RemoveRunning(); err != nil {
		t.Fatal(err)
	}
	if r, err := d.Running(); !errors.Is(err, ErrNoCluster) {
		t.Errorf("after: %+v, %v", r, err)
	}
	if err := os.WriteFile(d.runningNote(), []byte("The cluster is up."), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := d.Running(); err == nil || errors.Is(err, ErrNoCluster) {
		t.Errorf("prose is read as %+v, %v", r, err)
	}
}

func FuzzRunningIsReadAsItWasWritten(f *testing.F) {
	for _, text := range []string{`{}`, `{"pid":1,"nodes":[{"name":"n1","dockerHost":"unix:///x"}]}`, `{"pid":"1"}`, `{"version":"\u00fc"}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var r, again Running
		if json.Unmarshal([]byte(text), &r) != nil {
			return
		}
		data, err := json.Marshal(r)
		if err == nil {
			err = json.Unmarshal(data, &again)
		}
		if diff := cmp.Diff(r, again); diff != "" || err != nil {
			t.Errorf("%q: %v\n%s", text, err, diff)
		}
	})
}
