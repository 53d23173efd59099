package mesosstate

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unique"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/maintenance"

	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler"
)

// Document returns what the cluster consists of. It shares nothing that later calls change.
func (c *Cluster) Document() Document {
	sums := c.sums()
	windows, planned := c.schedule()
	return Document{
		Masters: []string{}, Unknown: []Unknown{}, Master: c.master(),
		Agents: c.showAgents(sums, planned), Frameworks: c.showFrameworks(sums), Roles: c.showRoles(), Maintenance: windows,
	}
}

// sums are what tasks and executors have.
type sums struct {
	byAgent map[text]byText // by framework
	tasksOn map[text]int    // by agent
	tasksOf map[text]int    // by framework
}

func (c *Cluster) sums() sums {
	s := sums{byAgent: map[text]byText{}, tasksOn: map[text]int{}, tasksOf: map[text]int{}}
	add := func(u use) {
		on := s.byAgent[u.agent]
		if on == nil {
			on = byText{}
			s.byAgent[u.agent] = on
		}
		on.add(u.framework, u.amounts, 1)
	}
	for _, u := range c.tasks {
		add(u)
		s.tasksOn[u.agent]++
		s.tasksOf[u.framework]++
	}
	for _, u := range c.executors {
		add(u)
	}
	return s
}

func (c *Cluster) showAgents(s sums, planned map[string]*Planned) []Agent {
	out := make([]Agent, 0, len(c.agents)+len(c.recovering))
	for _, all := range []map[string]*agent{c.agents, c.recovering} {
		for _, a := range all {
			seen, id := a.Agent, unique.Make(a.ID)
			seen.Total, seen.Reserved, seen.Allocated = a.total.shown(), a.reserved.shown(), a.allocated.shown()
			seen.Offered, seen.Frameworks, seen.Tasks = a.offered.shown(), s.byAgent[id].shown(), s.tasksOn[id]
			seen.Maintenance = planned[a.ID]
			out = append(out, seen)
		}
	}
	slices.SortFunc(out, func(a, b Agent) int { return strings.Compare(a.ID, b.ID) })
	return out
}

func (c *Cluster) showFrameworks(s sums) []Framework {
	out := make([]Framework, 0, len(c.frameworks))
	for _, f := range c.frameworks {
		seen := f.Framework
		seen.Allocated, seen.Offered, seen.Tasks = f.allocated.shown(), f.offered.shown(), s.tasksOf[unique.Make(f.ID)]
		out = append(out, seen)
	}
	slices.SortFunc(out, func(a, b Framework) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// role is a role with what it and those below it have.
type role struct {
	weight             float64
	quota              *Quota
	allocated, offered amounts
	frameworks         map[string]bool
}

func (c *Cluster) showRoles() []Role {
	roles, total := c.roles()
	out := make([]Role, 0, len(roles))
	for name, r := range roles {
		seen := Role{
			Name: name, Weight: r.weight, Quota: r.quota, Allocated: r.allocated.shown(), Offered: r.offered.shown(),
			Frameworks: slices.AppendSeq([]string{}, maps.Keys(r.frameworks)),
		}
		slices.Sort(seen.Frameworks)
		seen.DominantShare, seen.DominantResource = dominant(r.allocated.plus(r.offered, 1), total, r.weight)
		out = append(out, seen)
	}
	slices.SortFunc(out, func(a, b Role) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// roles returns the roles that the master told, and those that something of the cluster has; and the total of the cluster.
func (c *Cluster) roles() (roles map[string]*role, total amounts) {
	roles = map[string]*role{}
	get := func(name string) *role {
		r := roles[name]
		if r == nil {
			r = &role{weight: 1, frameworks: map[string]bool{}} // DEFAULT_WEIGHT of Mesos
			roles[name] = r
		}
		return r
	}
	for _, seen := range c.parts.roles.GetRoles() {
		r := get(seen.Name)
		if seen.Weight > 0 {
			r.weight = seen.Weight
		}
		for _, f := range seen.Frameworks {
			r.frameworks[f.Value] = true
		}
	}
	for _, w := range c.parts.weights.GetWeightInfos() {
		if w.Weight > 0 {
			get(w.GetRole()).weight = w.Weight
		}
	}
	for _, q := range c.quotas() {
		get(q.role).quota = q.quota
	}
	for _, f := range c.frameworks {
		for _, name := range f.Roles {
			get(name).frameworks[f.ID] = true
		}
	}
	for _, a := range c.agents {
		total = total.plus(a.total, 1)
		for name, allocated := range a.allocated {
			upwards(name.Value(), func(name string) { r := get(name); r.allocated = r.allocated.plus(allocated, 1) })
		}
		for name, offered := range a.offeredTo {
			upwards(name.Value(), func(name string) { r := get(name); r.offered = r.offered.plus(offered, 1) })
		}
	}
	delete(roles, "")
	return roles, total
}

// upwards calls visit with a role and those above it.
func upwards(name string, visit func(string)) {
	for {
		visit(name)
		last := strings.LastIndexByte(name, '/')
		if last < 0 {
			return
		}
		name = name[:last]
	}
}

// dominant returns the dominant share, and of which resource it is.
func dominant(has, total amounts, weight float64) (share float64, resource string) {
	for _, one := range total {
		if one.value <= 0 {
			continue
		}
		part := has.of(one.name).Float() / one.value.Float()
		if part > share || part == share && part > 0 && one.name.Value() < resource {
			share, resource = part, one.name.Value()
		}
	}
	return share / weight, resource
}

type roleQuota struct {
	role  string
	quota *Quota
}

// quotas returns what GET_QUOTA said. Masters before Mesos 1.9 know guarantees only, which are limits, too.
func (c *Cluster) quotas() []roleQuota {
	if c.parts.quota == nil {
		return nil
	}
	status := &c.parts.quota.Status
	var out []roleQuota
	for _, q := range status.Configs {
		out = append(out, roleQuota{q.Role, &Quota{Guarantee: quantities(q.Guarantees), Limit: quantities(q.Limits)}})
	}
	if len(out) > 0 {
		return out
	}
	for _, q := range status.Infos {
		guarantee := sum(q.Guarantee).shown()
		out = append(out, roleQuota{q.GetRole(), &Quota{Guarantee: guarantee, Limit: guarantee}})
	}
	return out
}

// quantities keeps amounts of 0: such a limit allows nothing.
func quantities(of map[string]mesos.Value_Scalar) Amounts {
	out := make(Amounts, len(of))
	for name, scalar := range of {
		out[name] = offers.MilliOf(scalar.Value).Float()
	}
	return out
}

func (c *Cluster) master() *Master {
	answer := c.parts.master
	if answer == nil || answer.MasterInfo == nil {
		return nil
	}
	info := answer.MasterInfo
	m := &Master{
		ID: info.ID, Hostname: info.GetHostname(), Version: cmp.Or(info.GetVersion(), c.version),
		Started: secondsOf(answer.StartTime), Elected: secondsOf(answer.ElectedTime),
	}
	_, m.Address, _ = strings.Cut(info.GetPID(), "@")
	m.Region, m.Zone = domain(info.Domain)
	return m
}

// secondsOf returns the time of seconds since 1970; nil for none.
func secondsOf(seconds *float64) *time.Time {
	if seconds == nil || *seconds <= 0 || *seconds > 1e11 {
		return nil
	}
	at := time.UnixMilli(int64(math.Round(*seconds * 1000))).UTC()
	return &at
}

// machine names a machine (https://mesos.apache.org/documentation/latest/maintenance/#scheduling-maintenance).
type machine struct{ hostname, ip string }

func machineOf(m *mesos.MachineID) machine {
	return machine{strings.ToLower(m.GetHostname()), m.GetIP()}
}

// schedule returns the maintenance schedule, and what is planned for each agent, by its id.
func (c *Cluster) schedule() (windows []Window, planned map[string]*Planned) {
	windows, planned = []Window{}, map[string]*Planned{}
	if c.parts.schedule == nil {
		return windows, planned
	}
	on, modes := c.byMachine(), c.modes()
	for _, w := range c.parts.schedule.Schedule.Windows {
		seen := Window{Machines: []Machine{}}
		seen.Start, seen.End = interval(&w)
		for i := range w.MachineIDs {
			m := machineOf(&w.MachineIDs[i])
			shown := Machine{Hostname: m.hostname, IP: m.ip, Mode: cmp.Or(modes[m], "UP")}
			for _, a := range on[m] {
				shown.Agents = append(shown.Agents, a.ID)
				planned[a.ID] = &Planned{Start: seen.Start, End: seen.End, Mode: shown.Mode}
			}
			slices.Sort(shown.Agents)
			seen.Machines = append(seen.Machines, shown)
		}
		windows = append(windows, seen)
	}
	return windows, planned
}

// byMachine returns the agents by each way in which a schedule can name their machine.
func (c *Cluster) byMachine() map[machine][]*agent {
	out := map[machine][]*agent{}
	for _, a := range c.agents {
		host := strings.ToLower(a.Hostname)
		for _, m := range []machine{{host, a.ip}, {host, ""}, {"", a.ip}} {
			if m != (machine{}) {
				out[m] = append(out[m], a)
			}
		}
	}
	return out
}

// modes returns the modes of the machines that are not up.
func (c *Cluster) modes() map[machine]string {
	out := map[machine]string{}
	if c.parts.status == nil {
		return out
	}
	status := &c.parts.status.Status
	for i := range status.DrainingMachines {
		out[machineOf(&status.DrainingMachines[i].ID)] = "DRAINING"
	}
	for i := range status.DownMachines {
		out[machineOf(&status.DownMachines[i])] = "DOWN"
	}
	return out
}

func interval(w *maintenance.Window) (start time.Time, end *time.Time) {
	start = time.Unix(0, w.Unavailability.Start.Nanoseconds).UTC()
	if d := w.Unavailability.Duration; d != nil {
		at := start.Add(time.Duration(d.Nanoseconds))
		end = &at
	}
	return start, end
}

// Join adds the nodes to their agents. An agent that has a node, but that the master does not know now, is added.
func (d *Document) Join(nodes []scheduler.LiveNode) {
	byAgent := make(map[string]*scheduler.LiveNode, len(nodes))
	for i := range nodes {
		byAgent[string(nodes[i].Agent)] = &nodes[i]
	}
	for i := range d.Agents {
		a := &d.Agents[i]
		a.Node = byAgent[a.ID]
		delete(byAgent, a.ID)
	}
	for id, node := range byAgent {
		d.Agents = append(d.Agents, Agent{
			ID: id, Hostname: node.Node, Missing: true, Total: Amounts{}, Allocated: map[string]Amounts{}, Offered: Amounts{},
			Frameworks: map[string]Amounts{}, Node: node,
		})
	}
	slices.SortFunc(d.Agents, func(a, b Agent) int { return strings.Compare(a.ID, b.ID) })
}
