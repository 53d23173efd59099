package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// wish is what a pod asks of the offers by its annotations. Most pods have none.
type wish struct {
	roles     []string          // the only ones that it may use, the preferred one first; nil for all of the framework's
	wildcards []api.PortMapping // that are still to be given host ports
	mapped    []api.PortMapping // that the pod was bound with: a sandbox that publishes them may run
	revocable offers.Milli      // cpus that Mesos may take back; it has no others then
	problem   string            // why an annotation cannot be followed; the pod waits until somebody mends it
}

// appraise finds out what a pod demands and wishes for.
func (c *Core) appraise(p *pod) {
	cpus, mem := c.cfg.defaults()
	p.demand, p.requests = demandOf(p.obj, cpus, mem, c.scratch)
	p.extended = extendedOf(p.obj)
	if p.standing.place == nil {
		p.standing.requests, p.standing.known = p.requests, p.obj
	}
	if p.wish = c.wishOf(p); p.wish == nil {
		return
	}
	p.demand = p.demand.with(p.wish.mapped)
	if p.wish.revocable > 0 {
		p.demand.Scalars[0] = 0
	}
}

// with adds the host ports that a bound pod has already.
func (d Demand) with(mapped []api.PortMapping) Demand {
	ports := slices.Clone(d.Ports)
	for _, m := range mapped {
		ports = append(ports, uint64(m.HostPort))
	}
	slices.Sort(ports)
	d.Ports = slices.Compact(ports)
	return d
}

// keepPorts makes the ports that a pod was bound with those that each further task of it must have.
func (p *pod) keepPorts(mapped []api.PortMapping) {
	if len(mapped) > 0 {
		p.wish = &wish{roles: p.wish.roles, mapped: mapped, revocable: p.wish.revocable}
		p.demand = p.demand.with(mapped)
	}
}

// wishOf reads the annotations of a pod; nil if it wishes for nothing.
func (c *Core) wishOf(p *pod) *wish {
	if len(p.obj.Annotations) == 0 && p.wish == nil && p.claimed.claim == nil {
		return nil
	}
	var w wish
	w.problem = cmp.Or(w.readRoles(p.obj, c.cfg.Roles), w.readPorts(p), w.readRevocable(p, c.cfg.Revocable), p.readClaim())
	if w.problem == "" && w.roles == nil && w.wildcards == nil && w.mapped == nil && w.revocable == 0 {
		return nil
	}
	return &w
}

// wrong says that no offer would help: an annotation has to be mended first.
func (w *wish) wrong() bool { return w != nil && w.problem != "" }

// wantsMore tells whether a pod waits that some offer may help. For one that has to be mended, or waits for an address, others need not go without.
func (c *Core) wantsMore() bool {
	helpless := len(c.queue.unaddressed)
	for _, s := range c.queue.shapes {
		if !s.wish.wrong() {
			continue
		}
		for _, p := range s.pods {
			if p.shape == s {
				helpless++
			}
		}
	}
	return c.queue.waiting > helpless
}

// key is the part of a shapeKey that tells wishes apart.
func (w *wish) key() string {
	return fmt.Sprintf("~%q~%s~%d~%s~%d", w.roles, w.problem, len(w.wildcards), api.FormatPortMappings(w.mapped), w.revocable)
}

// readRoles reads the roles, all of which the framework must be subscribed to
// (https://mesos.apache.org/documentation/latest/roles/).
func (w *wish) readRoles(obj *v1.Pod, subscribed []string) (problem string) {
	value, given := obj.Annotations[api.AnnotationRoles]
	if !given {
		return ""
	}
	for _, role := range strings.Split(value, ",") {
		role = strings.TrimSpace(role)
		if wrong := wrongRole(role); wrong != "" {
			return fmt.Sprintf("its annotation %s=%q is no list of Mesos roles such as \"batch,*\": %s", api.AnnotationRoles, value, wrong)
		}
		if !slices.Contains(subscribed, role) {
			return fmt.Sprintf("its annotation %s asks for role %q, which the scheduler is not subscribed to (--mesos-roles=%s)",
				api.AnnotationRoles, role, strings.Join(subscribed, ","))
		}
		if !slices.Contains(w.roles, role) {
			w.roles = append(w.roles, role)
		}
	}
	return ""
}

// wrongRole says which of Mesos's rules for the names of roles a name breaks, or "".
func wrongRole(role string) string {
	if role == "*" {
		return ""
	}
	if role == "" {
		return "a role is empty"
	}
	for _, part := range strings.Split(role, "/") {
		switch {
		case part == "" || part == "." || part == ".." || part == "*":
			return fmt.Sprintf("%q must not have the part %q", role, part)
		case part[0] == '-':
			return fmt.Sprintf("%q must not have a part that begins with a dash", role)
		case strings.ContainsAny(part, " \t\n\v\f\r\b\x7f\\"):
			return fmt.Sprintf("%q must not have spaces, control characters or backslashes", role)
		}
	}
	return ""
}

// readPorts finds out which containerPorts shall be given host ports. A pod that is bound keeps those that it was bound
// with, because its sandbox may run; one that was bound by somebody else has none, because its sandbox was made without.
func (w *wish) readPorts(p *pod) (problem string) {
	obj := p.obj
	mapped, err := api.ParsePortMappings(obj.Annotations[api.AnnotationPortMappings])
	if p.node != "" {
		w.mapped = mapped
		if mapped == nil && p.wish != nil { // it was bound a moment ago, and has not been seen so yet
			w.mapped = p.wish.mapped
		}
		return ""
	}
	if mapped != nil || err != nil {
		return "its annotation " + api.AnnotationPortMappings + " is for the scheduler to write: remove it"
	}
	switch value, given := obj.Annotations[api.AnnotationPortMapping]; {
	case !given:
	case value != api.PortMappingWildcard:
		return fmt.Sprintf("its annotation %s=%q is not known; the only value is %q", api.AnnotationPortMapping, value, api.PortMappingWildcard)
	default:
		w.wildcards = portsToMap(obj)
	}
	return ""
}

// readRevocable finds out whether the pod's cpus shall be revocable.
func (w *wish) readRevocable(p *pod, subscribed bool) (problem string) {
	value, given := p.obj.Annotations[api.AnnotationRevocable]
	switch {
	case !given || value == "false":
		return ""
	case value != "true":
		return fmt.Sprintf("its annotation %s=%q is neither \"true\" nor \"false\"", api.AnnotationRevocable, value)
	case !subscribed:
		return fmt.Sprintf("its annotation %s asks for what the scheduler does not take from Mesos (--mesos-revocable)", api.AnnotationRevocable)
	}
	w.revocable = p.demand.Scalars[0]
	return ""
}

// portsToMap returns the ports of a pod's containers that name no host port. Containers share the pod's network, so equal
// ports are one. On the host's network, there is nothing to map.
func portsToMap(obj *v1.Pod) []api.PortMapping {
	if obj.Spec.HostNetwork {
		return nil
	}
	var ports []api.PortMapping
	for _, container := range longContainers(obj) {
		for _, p := range container.Ports {
			m := api.PortMapping{ContainerPort: p.ContainerPort, Protocol: cmp.Or(string(p.Protocol), string(v1.ProtocolTCP))}
			if p.HostPort == 0 && !slices.Contains(ports, m) {
				ports = append(ports, m)
			}
		}
	}
	return ports
}

// longContainers returns the containers that run as long as the pod, sidecars among them
// (https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/).
func longContainers(obj *v1.Pod) []v1.Container {
	long := slices.Clone(obj.Spec.Containers)
	for _, container := range obj.Spec.InitContainers {
		if container.RestartPolicy != nil && *container.RestartPolicy == v1.ContainerRestartPolicyAlways {
			long = append(long, container)
		}
	}
	return long
}

// rolePlace is where a role stands in the order of preference; behind all others if it is not in it.
func rolePlace(order []string, role string) int {
	if i := slices.Index(order, role); i >= 0 {
		return i
	}
	return len(order)
}

// fit returns the agent's view of the most preferred role among those that fit the shape.
func (w *wish) fit(s *shape, views []*view) *view {
	var found *view
	for _, v := range views {
		if r := v.check(s); !r.ok() && !r.reserve {
			continue
		}
		if found == nil || rolePlace(w.roles, v.role) < rolePlace(w.roles, found.role) {
			found = v
		}
	}
	return found
}

// takes tells whether the pod may use offers of the view's role. An agent that offers nothing is of none.
func (w *wish) takes(v *view) bool {
	return w.roles == nil || len(v.offers) == 0 || slices.Contains(w.roles, v.role)
}

// checkRevocable: are there enough revocable cpus, and may a task of the agent's executor have them?
func (v *view) checkRevocable(s *shape) refused {
	if most := v.free.Sum(offers.RevocableCPUs); most < s.wish.revocable {
		return refused{reason: revocableShort, most: most}
	}
	if e := &v.agent.executor; e.record != nil && e.charge.Sum(offers.CPUs) > 0 {
		return refused{reason: executorMixes}
	}
	return refused{}
}

// checkWildcards: are there enough free ports beside those that the pod names?
func (v *view) checkWildcards(s *shape) refused {
	free := v.free.PortCount() - len(s.demand.Ports)
	if free < len(s.wish.wildcards) {
		return refused{reason: portsShort, most: offers.Milli(free)}
	}
	return refused{}
}

// takeAll takes all that the pod needs out of the view: what it demands, and a free port for each one that it wants
// published somewhere.
func (v *view) takeAll(p *pod) (taken offers.Resources, mapped []api.PortMapping) {
	taken = v.take(&p.demand)
	if p.wish == nil {
		return taken, nil
	}
	taken, _ = v.free.Draw(offers.RevocableCPUs, p.wish.revocable, taken)
	mapped = slices.Concat(p.wish.mapped, p.wish.wildcards)
	for i := len(p.wish.mapped); i < len(mapped); i++ {
		port, _ := v.free.FirstPort()
		part, _ := v.free.DrawPort(port)
		taken = append(taken, part)
		mapped[i].HostPort = int32(port)
	}
	return taken, mapped
}

// rolesWanted names the roles that a pod depends on, for its refusals; "" if they are not worth naming.
func (c *Core) rolesWanted(s *shape) string {
	roles := c.cfg.Roles
	if s.wish != nil && s.wish.roles != nil {
		roles = s.wish.roles
	}
	switch {
	case len(roles) == 0 || len(roles) == 1 && roles[0] == "*":
		return ""
	case len(roles) == 1:
		return "role " + roles[0]
	}
	return "roles " + strings.Join(roles, " ")
}
