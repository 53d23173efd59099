package localmesos

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"

	"github.com/k8sm/k8sm/contrib/localmesos/wire"
)

// The endpoints older than the operator API: /state, /slaves, /frameworks, /tasks.

func versionInfo() mesos.VersionInfo {
	date, user, none := "", "k8sm", ""
	seconds := 0.0
	return mesos.VersionInfo{Version: mesosVersion, BuildDate: &date, BuildTime: &seconds, BuildUser: &user, GitSHA: &none, GitBranch: &none}
}

func version() map[string]any {
	info := versionInfo()
	return wire.Tree(&info)
}

func merged(all ...map[string]any) map[string]any {
	out := map[string]any{}
	for _, one := range all {
		maps.Copy(out, one)
	}
	return out
}

func seconds(t time.Time) wire.Float {
	if t.IsZero() {
		return 0
	}
	return wire.Float(float64(t.UnixNano()) / 1e9)
}

func (m *master) stateView() map[string]any {
	info := m.info
	slaves, active := []any{}, 0
	for _, a := range m.registeredAgents() {
		slaves = append(slaves, m.agentView(a))
		active += boolToInt(m.offersOf(a))
	}
	capabilities := []any{}
	for _, c := range list(map[string]any{"m": wire.Tree(&info)}, "m", "capabilities") {
		capabilities = append(capabilities, c["type"])
	}
	frameworks := m.frameworkViews()
	removed := []any{}
	for id := range m.removed {
		removed = append(removed, map[string]any{"id": id})
	}
	return merged(version(), map[string]any{
		"id": info.ID, "pid": info.GetPID(), "hostname": info.GetHostname(), "leader": info.GetPID(), "leader_info": wire.Tree(&info),
		"start_time": seconds(m.started), "elected_time": seconds(m.started), "capabilities": capabilities,
		"slaves": slaves, "activated_slaves": wire.Float(active), "deactivated_slaves": wire.Float(len(slaves) - active),
		"unreachable_slaves": wire.Float(m.unreachable()), "recovered_slaves": []any{},
		"frameworks": frameworks, "completed_frameworks": removed, "unregistered_frameworks": []any{}, "orphan_tasks": []any{},
	})
}

func (m *master) slavesView() any {
	slaves := []any{}
	for _, a := range m.registeredAgents() {
		view := m.agentView(a)
		unreserved, reserved := a.total.split()
		full := map[string]any{}
		for role, p := range reserved {
			full[role] = wire.Trees(p.messages(withRole))
		}
		view["reserved_resources_full"] = full
		view["unreserved_resources_full"] = wire.Trees(unreserved.messages(withRole))
		view["used_resources_full"] = wire.Trees(a.used().messages(withRole))
		view["offered_resources_full"] = wire.Trees(a.offered().messages(withRole))
		slaves = append(slaves, view)
	}
	return map[string]any{"slaves": slaves, "recovered_slaves": []any{}}
}

func (m *master) frameworksView() any {
	return map[string]any{"frameworks": m.frameworkViews(), "completed_frameworks": []any{}, "unregistered_frameworks": []any{}}
}

func (m *master) tasksView() any {
	tasks := []any{}
	for _, f := range m.sortedFrameworks() {
		for _, t := range f.sortedTasks() {
			tasks = append(tasks, t.view())
		}
	}
	return map[string]any{"tasks": tasks}
}

func (m *master) agentView(a *agentEntry) map[string]any {
	unreserved, reserved := a.total.split()
	byRole := map[string]any{}
	for role, p := range reserved {
		byRole[role] = p.flat()
	}
	capabilities := []any{}
	for _, c := range agentCapabilities() {
		capabilities = append(capabilities, c.Type.String())
	}
	d := m.upkeep.deactivated[a.id]
	view := map[string]any{
		"id": a.id, "hostname": a.info.Hostname, "port": a.info.GetPort(), "pid": a.pid(), "active": m.offersOf(a), "deactivated": d != nil,
		"version": mesosVersion, "registered_time": seconds(a.registered), "attributes": attributeValues(a.info.Attributes),
		"capabilities": capabilities, "resources": a.total.flat(), "used_resources": a.used().flat(), "offered_resources": a.offered().flat(),
		"reserved_resources": byRole, "unreserved_resources": unreserved.flat(),
	}
	if d != nil && d.drain != nil {
		view["drain_info"], view["estimated_drain_start_time_seconds"] = wire.Tree(d.drain), wire.Float(d.since.Unix())
	}
	return view
}

func (m *master) frameworkViews() []any {
	out := []any{}
	for _, f := range m.sortedFrameworks() {
		out = append(out, m.frameworkView(f))
	}
	return out
}

func (m *master) frameworkView(f *framework) map[string]any {
	capabilities, offers := []any{}, []any{}
	for _, c := range f.info.Capabilities {
		capabilities = append(capabilities, c.Type.String())
	}
	for _, o := range f.offers {
		message := m.message(o)
		offers = append(offers, wire.Tree(&message))
	}
	used, offered := m.usedBy(f), f.offered()
	return merged(f.taskViews(), map[string]any{
		"id": f.id, "name": f.info.Name, "user": f.info.User, "roles": f.roles(), "capabilities": capabilities,
		"checkpoint": f.info.GetCheckpoint(), "failover_timeout": wire.Float(f.info.GetFailoverTimeout()), "hostname": f.info.GetHostname(),
		"webui_url": f.info.GetWebUiURL(), "principal": f.info.GetPrincipal(), "active": f.stream != "", "connected": f.stream != "",
		"recovered": f.recovered, "registered_time": seconds(f.registered), "unregistered_time": seconds(f.unregistered),
		"offers": offers, "executors": m.executorViews(f), "used_resources": used.flat(), "offered_resources": offered.flat(),
		"resources": used.plus(offered).flat(), "offer_constraints": map[string]any{},
	})
}

func (f *framework) taskViews() map[string]any {
	tasks, unreachable, completed := []any{}, []any{}, []any{}
	for _, t := range f.sortedTasks() {
		if t.agent.unreachable {
			unreachable = append(unreachable, t.view())
		} else {
			tasks = append(tasks, t.view())
		}
	}
	for _, t := range f.completed {
		completed = append(completed, t.view())
	}
	return map[string]any{"tasks": tasks, "unreachable_tasks": unreachable, "completed_tasks": completed}
}

func (m *master) executorViews(f *framework) []any {
	out := []any{}
	for _, a := range m.registeredAgents() {
		for key, x := range a.executors {
			if key.framework == f.id {
				out = append(out, map[string]any{
					"executor_id": key.executor, "name": x.info.GetName(), "framework_id": f.id, "slave_id": a.id, "resources": x.used.flat(),
				})
			}
		}
	}
	return out
}

func (t *task) view() map[string]any {
	statuses := []any{}
	for i := range t.info.Statuses {
		s := &t.info.Statuses[i]
		view := map[string]any{"state": s.GetState().String(), "timestamp": wire.Float(s.GetTimestamp())}
		if s.Healthy != nil {
			view["healthy"] = *s.Healthy
		}
		if s.ContainerStatus != nil {
			view["container_status"] = wire.Tree(s.ContainerStatus)
		}
		statuses = append(statuses, view)
	}
	role := "*"
	if len(t.info.Resources) > 0 {
		role = t.info.Resources[0].GetAllocationInfo().GetRole()
	}
	view := map[string]any{
		"id": t.id(), "name": t.info.Name, "framework_id": t.framework.id, "executor_id": t.info.GetExecutorID().GetValue(), "slave_id": t.agent.id,
		"state": t.info.GetState().String(), "resources": poolOf(t.info.Resources).flat(), "role": role, "statuses": statuses,
	}
	if t.info.Labels != nil {
		view["labels"] = wire.Trees(t.info.Labels.Labels)
	}
	return view
}

func attributeValues(attributes []mesos.Attribute) map[string]any {
	out := map[string]any{}
	for i := range attributes {
		a := &attributes[i]
		switch a.Type {
		case mesos.SCALAR:
			out[a.Name] = wire.Float(a.Scalar.Value)
		case mesos.RANGES:
			var s spans
			for _, r := range a.Ranges.Range {
				s = append(s, span{r.Begin, r.End})
			}
			out[a.Name] = s.String()
		case mesos.SET:
			out[a.Name] = amount{kind: mesos.SET, set: a.Set.Item}.valueText()
		default:
			out[a.Name] = a.GetText().GetValue()
		}
	}
	return out
}

func (a *agentEntry) pid() string { return fmt.Sprintf("slave(1)@%s:%d", a.ip, a.info.GetPort()) }

// used returns the resources of executors and tasks on the agent, by role.
func (a *agentEntry) used() pool {
	var out pool
	for _, x := range a.executors {
		out = out.plus(x.used)
	}
	for _, t := range a.tasks {
		out = out.plus(t.used)
	}
	return a.total.order(out)
}

// order sorts q like p, so that the output is stable.
func (p pool) order(q pool) pool {
	rank := func(a amount) int {
		return slices.IndexFunc(p, func(x amount) bool { return x.name == a.name && x.role == a.role })
	}
	slices.SortStableFunc(q, func(a, b amount) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.used, b.used)) })
	return q
}

func (a *agentEntry) offered() pool { return offered(a.offers) }
func (f *framework) offered() pool  { return offered(f.offers) }

func offered[M ~map[K]*offer, K comparable](offers M) pool {
	var out pool
	for _, o := range offers {
		out = out.plus(o.resources)
	}
	return out
}

func (m *master) usedBy(f *framework) pool {
	var out pool
	for _, a := range m.registeredAgents() {
		for key, x := range a.executors {
			if key.framework == f.id {
				out = out.plus(x.used)
			}
		}
	}
	for _, t := range f.tasks {
		if !t.agent.unreachable {
			out = out.plus(t.used)
		}
	}
	slices.SortStableFunc(out, func(a, b amount) int { return cmp.Compare(a.name, b.name) })
	return out
}

func (m *master) sortedAgents() []*agentEntry {
	return slices.SortedFunc(maps.Values(m.agents), func(a, b *agentEntry) int { return cmp.Compare(a.id, b.id) })
}

// registeredAgents returns the agents in order, without the unreachable ones: of these a real master knows only the ids.
func (m *master) registeredAgents() []*agentEntry {
	return slices.DeleteFunc(m.sortedAgents(), func(a *agentEntry) bool { return a.unreachable })
}

// unreachable counts the unreachable agents, with those that did not come back to this master.
func (m *master) unreachable() int {
	return len(m.registry.lost) + len(m.agents) - len(m.registeredAgents())
}

func (m *master) sortedFrameworks() []*framework {
	return slices.SortedFunc(maps.Values(m.frameworks), func(a, b *framework) int { return cmp.Compare(a.id, b.id) })
}

func (f *framework) sortedTasks() []*task {
	return slices.SortedFunc(maps.Values(f.tasks), func(a, b *task) int { return cmp.Compare(a.id(), b.id()) })
}
