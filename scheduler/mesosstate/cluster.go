package mesosstate

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unique"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"

	"github.com/k8sm/k8sm/offers"
)

// Cluster is what a master has told of its cluster, or the part of it that one answer has. It is not safe for concurrent use.
type Cluster struct {
	agents     map[string]*agent
	recovering map[string]*agent // have not come back to a new leading master
	frameworks map[string]*framework
	tasks      map[taskKey]use
	executors  []use
	version    string
	parts      parts
}

// parts are what answers have, beside the above.
type parts struct {
	agents, frameworks, executors bool // the answer was about them

	roles    *pb.Response_GetRoles
	weights  *pb.Response_GetWeights
	quota    *pb.Response_GetQuota
	master   *pb.Response_GetMaster
	schedule *pb.Response_GetMaintenanceSchedule
	status   *pb.Response_GetMaintenanceStatus
}

type taskKey struct {
	framework text
	task      string
}

// use is what a task or an executor has.
type use struct {
	agent, framework, role text
	amounts                amounts
}

type agent struct {
	Agent               // what does not change between answers
	ip                  string
	total, offered      amounts
	reserved, allocated byText
	offeredTo           byText
}

type framework struct {
	Framework
	allocated, offered amounts
}

// New returns an empty Cluster.
func New() *Cluster {
	return &Cluster{
		agents: map[string]*agent{}, recovering: map[string]*agent{}, frameworks: map[string]*framework{}, tasks: map[taskKey]use{},
	}
}

// bounded returns an error for a cluster that is too large.
func (c *Cluster) bounded() error {
	if max(len(c.agents), len(c.recovering), len(c.frameworks), len(c.tasks), len(c.executors)) > maxObjects {
		return errTooMany
	}
	return nil
}

// Take replaces what another Cluster, from ReadAnswer, has. The other one must not be used any more.
func (c *Cluster) Take(part *Cluster) {
	if part.parts.agents {
		c.agents, c.recovering = part.agents, part.recovering
	}
	if part.parts.frameworks {
		c.frameworks = part.frameworks
	}
	if part.parts.executors {
		c.executors = part.executors
	}
	if part.version != "" {
		c.version = part.version
	}
	take(&c.parts.roles, part.parts.roles)
	take(&c.parts.weights, part.parts.weights)
	take(&c.parts.quota, part.parts.quota)
	take(&c.parts.master, part.parts.master)
	take(&c.parts.schedule, part.parts.schedule)
	take(&c.parts.status, part.parts.status)
}

// Keep takes over what the state of SUBSCRIBED does not have from an older Cluster of the same master.
func (c *Cluster) Keep(older *Cluster) { c.version, c.parts = older.version, older.parts }

func take[T any](to **T, from *T) {
	if from != nil {
		*to = from
	}
}

// Apply applies an event of SUBSCRIBE, other than SUBSCRIBED. It returns true if answers should be asked for soon, because the event
// says only a part of what has changed.
//
// An event that came before an answer was asked for is in the answer, and is then applied to what was before; the next answer, at the
// latest, mends what is wrong.
func (c *Cluster) Apply(e *pb.Event) (stale bool) {
	switch e.Type {
	case pb.Event_TASK_ADDED:
		if len(c.tasks) >= maxObjects {
			return true
		}
		t := &e.TaskAdded.Task
		c.endTask(t.FrameworkID.Value, t.TaskID.Value)
		if u, runs := c.seeTask(t); runs {
			c.charge(u, 1)
		}
	case pb.Event_TASK_UPDATED:
		if u := e.TaskUpdated; u.State != nil && ended(*u.State) {
			c.endTask(u.FrameworkID.Value, u.Status.TaskID.Value)
		}
	case pb.Event_AGENT_ADDED:
		c.seeAgent(&e.AgentAdded.Agent)
		return true
	case pb.Event_AGENT_REMOVED:
		c.removeAgent(e.AgentRemoved.AgentID.Value)
		return true
	case pb.Event_FRAMEWORK_ADDED:
		c.briefly(&e.FrameworkAdded.Framework)
		return true
	case pb.Event_FRAMEWORK_UPDATED:
		c.briefly(&e.FrameworkUpdated.Framework)
		return true
	case pb.Event_FRAMEWORK_REMOVED:
		delete(c.frameworks, e.FrameworkRemoved.FrameworkInfo.GetID().GetValue())
		return true
	}
	return false
}

// ended reports whether a task in this state has no resources: it has ended, or its agent is unreachable.
func ended(s mesos.TaskState) bool {
	switch s {
	case mesos.TASK_STAGING, mesos.TASK_STARTING, mesos.TASK_RUNNING, mesos.TASK_KILLING:
		return false
	}
	return true
}

// seeTask adds a task. runs is false for one that has no resources.
func (c *Cluster) seeTask(t *mesos.Task) (u use, runs bool) {
	if t.State != nil && ended(*t.State) { // its end is not acknowledged yet
		return use{}, false
	}
	u = newUse(t.AgentID.Value, t.FrameworkID.Value, t.Resources)
	c.tasks[taskKey{u.framework, t.TaskID.Value}] = u
	return u, true
}

func (c *Cluster) seeExecutor(x *pb.Response_GetExecutors_Executor) {
	c.executors = append(c.executors, newUse(x.AgentID.Value, x.ExecutorInfo.GetFrameworkID().GetValue(), x.ExecutorInfo.Resources))
}

func newUse(agent, framework string, resources []mesos.Resource) use {
	u := use{agent: unique.Make(agent), framework: unique.Make(framework), role: unique.Make(""), amounts: sum(resources)}
	if len(resources) > 0 {
		u.role = unique.Make(allocatedTo(&resources[0])) // the same for all (validation::task in src/master/validation.cpp)
	}
	return u
}

// endTask frees what a task has.
func (c *Cluster) endTask(framework, id string) {
	key := taskKey{unique.Make(framework), id}
	if u, known := c.tasks[key]; known {
		delete(c.tasks, key)
		c.charge(u, -1)
	}
}

// charge corrects what the last answers said by what a task has taken or freed since.
func (c *Cluster) charge(u use, factor offers.Milli) {
	if a := c.agents[u.agent.Value()]; a != nil {
		a.allocated.add(u.role, u.amounts, factor)
	}
	if f := c.frameworks[u.framework.Value()]; f != nil {
		f.allocated = f.allocated.plus(u.amounts, factor)
	}
}

func (c *Cluster) removeAgent(id string) {
	delete(c.agents, id)
	of := unique.Make(id)
	for key, u := range c.tasks {
		if u.agent == of {
			delete(c.tasks, key)
			c.charge(u, -1)
		}
	}
	c.executors = slices.DeleteFunc(c.executors, func(u use) bool {
		if u.agent == of {
			c.charge(u, -1)
		}
		return u.agent == of
	})
}

func (c *Cluster) seeAgent(seen *pb.Response_GetAgents_Agent) {
	a := newAgent(&seen.AgentInfo)
	a.Version, a.Active, a.Deactivated, a.Registered = seen.Version, seen.Active, seen.GetDeactivated(), timeOf(seen.RegisteredTime)
	_, a.Address, _ = strings.Cut(seen.GetPID(), "@")
	a.ip, _, _ = strings.Cut(a.Address, ":")
	if d := seen.DrainInfo; d != nil {
		a.Draining = &Draining{State: d.State.String(), Since: timeOf(seen.EstimatedDrainStartTime), MarkGone: d.Config.GetMarkGone()}
		if grace := d.Config.MaxGracePeriod; grace != nil {
			seconds := time.Duration(grace.Nanoseconds).Seconds()
			a.Draining.MaxGraceSeconds = &seconds
		}
	}
	a.total, a.reserved = sum(seen.TotalResources), sumBy(seen.TotalResources, reservedFor)
	a.allocated = sumBy(seen.AllocatedResources, allocatedTo)
	a.offered, a.offeredTo = sum(seen.OfferedResources), sumBy(seen.OfferedResources, allocatedTo)
	c.agents[a.ID] = a
	delete(c.recovering, a.ID)
}

func (c *Cluster) seeRecovered(info *mesos.AgentInfo) {
	a := newAgent(info)
	a.Recovering, a.total, a.allocated = true, sum(info.Resources), byText{}
	c.recovering[a.ID] = a
}

func newAgent(info *mesos.AgentInfo) *agent {
	a := &agent{Agent: Agent{ID: info.GetID().GetValue(), Hostname: info.Hostname, Attributes: attributes(info.Attributes)}}
	a.Region, a.Zone = domain(info.Domain)
	return a
}

func (c *Cluster) seeFramework(seen *pb.Response_GetFrameworks_Framework) {
	f := newFramework(seen)
	f.allocated, f.offered = sum(seen.AllocatedResources), sum(seen.OfferedResources)
	c.frameworks[f.ID] = f
}

// briefly sees what events say of a framework: nothing of its resources.
func (c *Cluster) briefly(seen *pb.Response_GetFrameworks_Framework) {
	f := newFramework(seen)
	if before := c.frameworks[f.ID]; before != nil {
		f.allocated, f.offered = before.allocated, before.offered
	}
	c.frameworks[f.ID] = f
}

func newFramework(seen *pb.Response_GetFrameworks_Framework) *framework {
	info := &seen.FrameworkInfo
	f := &framework{Framework: Framework{
		ID: info.GetID().GetValue(), Name: info.Name, Principal: info.GetPrincipal(), User: info.User, Roles: info.Roles,
		Hostname: info.GetHostname(), WebUI: info.GetWebUiURL(),
		Active: seen.Active, Connected: seen.Connected, Recovered: seen.Recovered, Registered: timeOf(seen.RegisteredTime),
	}}
	if len(f.Roles) == 0 { // of a framework that is not MULTI_ROLE
		f.Roles = []string{info.GetRole()}
	}
	return f
}

func domain(d *mesos.DomainInfo) (region, zone string) {
	if fault := d.GetFaultDomain(); fault != nil {
		return fault.Region.Name, fault.Zone.Name
	}
	return "", ""
}

// attributes returns attributes as Mesos' flag --attributes has them
// (https://mesos.apache.org/documentation/latest/attributes-resources/#attributes).
func attributes(all []mesos.Attribute) map[string]string {
	out := make(map[string]string, len(all))
	for i := range all {
		out[all[i].Name] = attribute(&all[i])
	}
	return out
}

func attribute(a *mesos.Attribute) string {
	var parts []string
	switch a.Type {
	case mesos.SCALAR:
		return offers.MilliOf(a.GetScalar().GetValue()).String()
	case mesos.RANGES:
		for _, r := range a.GetRanges().GetRange() {
			parts = append(parts, fmt.Sprintf("%d-%d", r.Begin, r.End))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case mesos.SET:
		return "{" + strings.Join(a.GetSet().GetItem(), ",") + "}"
	}
	return a.GetText().GetValue()
}

// timeOf returns nil for no time, which Mesos writes as 0 or leaves out.
func timeOf(t *mesos.TimeInfo) *time.Time {
	if t == nil || t.Nanoseconds <= 0 {
		return nil
	}
	at := time.Unix(0, t.Nanoseconds).UTC()
	return &at
}
