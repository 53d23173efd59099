package status

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/k8sm/k8sm/scheduler/run"
)

// record is a leader election record.
type record struct {
	leader string
	err    error
}

func (r record) Leader(context.Context) (string, error) { return r.leader, r.err }

func TestFindLeaderReadsTheAddressFromTheRecord(t *testing.T) {
	d := cluster(t)
	address, err := FindLeader(t.Context(), record{leader: SchedulerName("host", 7, serve(t, d, fakeSource{}))})
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := client(t, d.AdminKubeconfig(), address).Tasks(t.Context())
	compare(t, fakeSource{}.Tasks, tasks, err)
	for says, r := range map[string]record{
		"no scheduler leads":       {},
		"host/7, serves no status": {leader: SchedulerName("host", 7, "")},
		"etcd is away":             {err: errors.New("etcd is away")},
	} {
		if address, err := FindLeader(t.Context(), r); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: got %q, %v; want it to say %q", r, address, err, says)
		}
	}
}

func TestServerOnAllAddressesIsReachableByTheMachinesName(t *testing.T) {
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{"127.0.0.1:0": "127.0.0.1", ":0": name} {
		c := configOf(cluster(t))
		c.Address = address
		s, err := Listen(c, Shows{Scheduler: run.NewWindow(), Metrics: prometheus.NewRegistry(), Mesos: fakeMesos{}, Reviewer: unreachable(t)})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Reachable(); !strings.HasPrefix(got, want+":") || strings.HasSuffix(got, ":0") {
			t.Errorf("%s is reached at %s", address, got)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
