package match

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// Asks holds the requirements on offers that a pod states in annotations, or that its namespace has. It is nil for most pods.
type Asks struct {
	roles     []string          // the roles that it may use, the preferred one first; nil for all roles of the framework
	wildcards []api.PortMapping // ports that still need a host port
	mapped    []api.PortMapping // ports that the pod was bound with: its sandbox may publish them already
	revocable offers.Milli      // revocable cpus; if set, they replace the pod's cpus
	problem   string            // why an annotation is invalid, or not for the namespace; the pod waits until it is corrected
}

// with adds the host ports of the mappings.
func (d Demand) with(mapped []api.PortMapping) Demand {
	ports := slices.Clone(d.Ports)
	for _, m := range mapped {
		ports = append(ports, uint64(m.HostPort))
	}
	slices.Sort(ports)
	d.Ports = slices.Compact(ports)
	return d
}

// asks reads the annotations of a pod. It returns nil if there are none and problem is "".
func (cfg *Config) asks(p *Pod, problem string) *Asks {
	if len(p.Obj.Annotations) == 0 && p.Asks == nil && problem == "" && len(cfg.RoleNamespaces) == 0 {
		return nil
	}
	var asks Asks
	asks.problem = cmp.Or(asks.readRoles(p.Obj, cfg), asks.readPorts(p), asks.readRevocable(p, cfg.Revocable), problem)
	if asks.problem == "" && asks.roles == nil && asks.wildcards == nil && asks.mapped == nil && asks.revocable == 0 {
		return nil
	}
	return &asks
}

// Wrong tells whether an annotation is invalid, so that no offer can help.
func (asks *Asks) Wrong() bool { return asks != nil && asks.problem != "" }

// Problem returns why an annotation is invalid; "" if none is.
func (asks *Asks) Problem() string {
	if asks == nil {
		return ""
	}
	return asks.problem
}

// Wildcards tells whether the pod still needs host ports.
func (asks *Asks) Wildcards() bool { return asks != nil && len(asks.wildcards) > 0 }

// Mapped returns the ports that the pod was bound with.
func (asks *Asks) Mapped() []api.PortMapping {
	if asks == nil {
		return nil
	}
	return asks.mapped
}

// key is the part of a Key for the annotations.
func (asks *Asks) key() string {
	return fmt.Sprintf("~%q~%s~%d~%s~%d", asks.roles, asks.problem, len(asks.wildcards), api.FormatPortMappings(asks.mapped), asks.revocable)
}

// readRoles reads the roles, all of which the framework must be subscribed to
// (https://mesos.apache.org/documentation/latest/roles/), and the pod's namespace must be allowed to use.
func (asks *Asks) readRoles(obj *v1.Pod, cfg *Config) (problem string) {
	value, given := obj.Annotations[api.AnnotationRoles]
	if !given {
		return asks.defaultRoles(obj, cfg)
	}
	for _, role := range strings.Split(value, ",") {
		role = strings.TrimSpace(role)
		if wrong := wrongRole(role); wrong != "" {
			return fmt.Sprintf("its annotation %s=%q is no list of Mesos roles such as \"batch,*\": %s", api.AnnotationRoles, value, wrong)
		}
		if !slices.Contains(cfg.Roles, role) {
			return fmt.Sprintf("its annotation %s asks for role %q, which the scheduler is not subscribed to (--mesos-roles=%s)",
				api.AnnotationRoles, role, strings.Join(cfg.Roles, ","))
		}
		if !cfg.mayUse(obj.Namespace, role) {
			return fmt.Sprintf("its annotation %s asks for role %q, which pods in namespace %s may not use: ask for another role, "+
				"or have the namespace added to --role-namespaces", api.AnnotationRoles, role, obj.Namespace)
		}
		if !slices.Contains(asks.roles, role) {
			asks.roles = append(asks.roles, role)
		}
	}
	return ""
}

// defaultRoles sets the roles of a pod without the annotation: those that its namespace may use.
func (asks *Asks) defaultRoles(obj *v1.Pod, cfg *Config) (problem string) {
	for _, role := range cfg.Roles {
		if cfg.mayUse(obj.Namespace, role) {
			asks.roles = append(asks.roles, role)
		}
	}
	switch len(asks.roles) {
	case len(cfg.Roles):
		asks.roles = nil // all
	case 0:
		return fmt.Sprintf("pods in namespace %s may use none of the scheduler's Mesos roles (--mesos-roles=%s): "+
			"have the namespace added to --role-namespaces", obj.Namespace, strings.Join(cfg.Roles, ","))
	}
	return ""
}

// mayUse tells whether pods of the namespace may use the role. Bound pods are no exception: the role of an earlier task is not known
// for sure, and whoever creates a pod may give it a node.
func (cfg *Config) mayUse(namespace, role string) bool {
	namespaces, limited := cfg.RoleNamespaces[role]
	return !limited || slices.Contains(namespaces, namespace)
}

// wrongRole returns why a role name is invalid in Mesos; "" if it is valid.
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

// readPorts reads which containerPorts need host ports. A bound pod keeps the ports that it was bound with, because its sandbox
// may run already. A pod that another scheduler bound gets none: its sandbox was created without.
func (asks *Asks) readPorts(p *Pod) (problem string) {
	obj := p.Obj
	mapped, err := api.ParsePortMappings(obj.Annotations[api.AnnotationPortMappings])
	if p.Node != "" {
		asks.mapped = mapped
		if mapped == nil && p.Asks != nil { // we have just bound it, and its new state has not arrived yet
			asks.mapped = p.Asks.mapped
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
		asks.wildcards = portsToMap(obj)
	}
	return ""
}

// readRevocable reads whether the pod's cpus are to be revocable.
func (asks *Asks) readRevocable(p *Pod, subscribed bool) (problem string) {
	value, given := p.Obj.Annotations[api.AnnotationRevocable]
	switch {
	case !given || value == "false":
		return ""
	case value != "true":
		return fmt.Sprintf("its annotation %s=%q is neither \"true\" nor \"false\"", api.AnnotationRevocable, value)
	case !subscribed:
		return fmt.Sprintf("its annotation %s asks for what the scheduler does not take from Mesos (--mesos-revocable)", api.AnnotationRevocable)
	}
	asks.revocable = p.Demand.Scalars[CPUs]
	return ""
}

// portsToMap returns the container ports of a pod without a host port. Containers share the pod's network, so equal ports count
// once. A pod on the host's network needs no mapping.
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

// longContainers returns the containers that run as long as the pod: its containers and sidecars
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

// fit returns the view that fits the class and has the most preferred role; nil if none fits.
func (asks *Asks) fit(c *Class, views []*View) *View {
	var found *View
	for _, v := range views {
		if r := v.check(c); !r.ok() && !r.reserve {
			continue
		}
		if found == nil || rank(asks.roles, v.Role) < rank(asks.roles, found.Role) {
			found = v
		}
	}
	return found
}

// takesRole tells whether the pod may use the role of the view. A view without offers passes: its role does not count.
func (asks *Asks) takesRole(v *View) bool {
	return asks.roles == nil || len(v.Offers) == 0 || slices.Contains(asks.roles, v.Role)
}

// rolesWanted names the roles that the class may use, for messages; "" if the framework has no other than "*".
func (cfg *Config) rolesWanted(c *Class) string {
	roles := cfg.Roles
	if len(roles) == 0 || len(roles) == 1 && roles[0] == "*" {
		return ""
	}
	if c.asks != nil && c.asks.roles != nil {
		roles = c.asks.roles
	}
	if len(roles) == 1 {
		return "role " + roles[0]
	}
	return "roles " + strings.Join(roles, " ")
}
