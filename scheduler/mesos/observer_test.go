package mesos_test

import (
	"context"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler/mesosstate"
)

// state waits until what the scheduler knows of the Mesos cluster is as awaited.
func (c *cluster) state(what string, awaited func(mesosstate.Document) bool) (d mesosstate.Document) {
	c.t.Helper()
	c.eventually(what, func(ctx context.Context) bool {
		var err error
		d, err = c.last.State(ctx)
		return err == nil && awaited(d)
	})
	return d
}

func TestMesosClusterIsObserved(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.schedule()
	c.createPod("web", "500m")
	c.wait("web", "a node", bound)
	begin := time.Now().Add(time.Hour).Truncate(time.Second)
	c.plan(begin)
	c.operate("UPDATE_QUOTA", `{"quota_configs": [{"role": "dev", "limits": {"cpus": {"value": 2}}}]}`)
	c.operate("UPDATE_WEIGHTS", `{"weight_infos": [{"role": "*", "weight": 2}]}`)
	d := c.state("an agent with a task, the quota and the plan", func(d mesosstate.Document) bool {
		return len(d.Agents) == 2 && d.Agents[0].Tasks+d.Agents[1].Tasks == 1 && len(d.Roles) == 2 && len(d.Maintenance) == 1
	})
	framework, agent := string(c.store.framework), d.Agents[0]
	if agent.Tasks == 0 {
		agent = d.Agents[1]
	}
	if d.Framework != framework || d.NoMasterSince != nil || d.Problem != "" || len(d.Unknown) != 0 || d.Master == nil ||
		d.Master.Address != c.mesos.MasterAddr() || d.Masters[0] != c.mesos.MasterAddr() || d.Master.Elected == nil {
		t.Errorf("%+v, master %+v", d, d.Master)
	}
	// The pod's 500m, and the minion's 250m.
	if got := agent.Frameworks[framework]["cpus"]; got != 0.75 || agent.Allocated["*"]["cpus"] != 0.75 || agent.Total["cpus"] != 4 {
		t.Errorf("agent %+v", agent)
	}
	if agent.Attributes["rack"] != "r1" || !agent.Active || agent.Maintenance == nil || !agent.Maintenance.Start.Equal(begin) {
		t.Errorf("agent %+v, maintenance %+v", agent, agent.Maintenance)
	}
	if f := d.Frameworks[0]; f.ID != framework || !f.Active || f.Tasks != 1 || f.Allocated["cpus"] != 0.75 {
		t.Errorf("framework %+v", f)
	}
	if r := d.Roles[0]; r.Name != "*" || r.Weight != 2 || r.DominantShare <= 0 || d.Roles[1].Quota.Limit["cpus"] != 2 {
		t.Errorf("roles %+v", d.Roles)
	}
	if err := c.client.CoreV1().Pods("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.state("the end of the task", func(d mesosstate.Document) bool { return d.Agents[0].Tasks+d.Agents[1].Tasks == 0 })
}

func TestLostMasterIsToldAndItsSuccessorIsObserved(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.schedule()
	c.createPod("web", "500m")
	c.wait("web", "a node", bound)
	before := c.state("the agent", func(d mesosstate.Document) bool { return len(d.Agents) == 1 })
	killed := time.Now()
	c.mesos.KillMaster()
	d := c.state("the loss of the master", func(d mesosstate.Document) bool { return d.NoMasterSince != nil })
	if d.NoMasterSince.Before(killed) || d.NoMasterSince.After(time.Now()) || len(d.Agents) != 1 || d.Agents[0].ID != before.Agents[0].ID || d.Problem != "" {
		t.Errorf("killed at %s, %+v", killed, d)
	}
	if err := c.mesos.RestartMaster(); err != nil {
		t.Fatal(err)
	}
	c.state("the next master, with the task", func(d mesosstate.Document) bool {
		return d.NoMasterSince == nil && d.Master != nil && d.Master.ID != before.Master.ID && len(d.Agents) == 1 && d.Agents[0].Tasks == 1
	})
}

func TestOtherFrameworksAreSeen(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.schedule()
	c.createPod("web", "500m")
	c.wait("web", "a node", bound)
	c.flags = []string{"--mesos-framework-name=other"}
	c.state("one framework", func(d mesosstate.Document) bool { return len(d.Frameworks) == 1 })
	observer := c.last
	c.scheduleWith(&memory{records: map[api.AgentID][]byte{}}, "other")
	c.last = observer
	d := c.state("two frameworks", func(d mesosstate.Document) bool { return len(d.Frameworks) == 2 })
	var names []string
	for _, f := range d.Frameworks {
		names = append(names, f.Name)
	}
	if got := strings.Join(names, " "); got != "k8sm other" && got != "other k8sm" {
		t.Error(got)
	}
}
