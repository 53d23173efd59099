package mesosstate

import (
	"time"

	"github.com/k8sm/k8sm/scheduler"
)

// Document is what is known of a Mesos cluster. Its JSON is stable: fields are added, not changed. Lists are sorted by id or name.
type Document struct {
	// NoMasterSince is since when no master answers the scheduler; nil if one does. All else is then as it was last.
	NoMasterSince *time.Time `json:"noMasterSince,omitempty"`
	// Problem is why the leading master has told nothing; "" for none. Agents, frameworks and roles are then missing.
	Problem string `json:"problem,omitempty"`
	// Framework is the id of the scheduler's own framework; "" before it has one.
	Framework string `json:"framework,omitempty"`
	// Master is the leading master; nil if it is not known.
	Master *Master `json:"master,omitempty"`
	// Masters are the addresses of the masters that the scheduler tries, as "host:port".
	Masters    []string    `json:"masters"`
	Agents     []Agent     `json:"agents"`
	Frameworks []Framework `json:"frameworks"`
	Roles      []Role      `json:"roles"`
	// Maintenance is the schedule (https://mesos.apache.org/documentation/latest/maintenance/).
	Maintenance []Window `json:"maintenance"`
	// Unknown are the questions that the master did not answer. What would be in the document then is missing, or as it was last.
	Unknown []Unknown `json:"unknown"`
}

// Unknown is a question that the master did not answer.
type Unknown struct {
	// Call is the call of the operator API, such as "GET_QUOTA".
	Call   string `json:"call"`
	Reason string `json:"reason"`
}

// Amounts are amounts of scalar resources by name: cpus in cores, mem and disk in MB, gpus in devices, and others as operators named
// them. Resources without an amount are missing. Revocable ones are included.
type Amounts map[string]float64

// Master is the leading master.
type Master struct {
	ID       string `json:"id"`
	Hostname string `json:"hostname,omitempty"`
	// Address is "host:port".
	Address string     `json:"address"`
	Version string     `json:"version,omitempty"`
	Started *time.Time `json:"started,omitempty"`
	Elected *time.Time `json:"elected,omitempty"`
	Region  string     `json:"region,omitempty"`
	Zone    string     `json:"zone,omitempty"`
}

// Agent is a Mesos agent, with its node.
type Agent struct {
	ID       string `json:"id"`
	Hostname string `json:"hostname"`
	// Address is "host:port".
	Address    string            `json:"address,omitempty"`
	Version    string            `json:"version,omitempty"`
	Region     string            `json:"region,omitempty"`
	Zone       string            `json:"zone,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Registered *time.Time        `json:"registered,omitempty"`
	// Active says that Mesos offers its resources.
	Active bool `json:"active"`
	// Deactivated says that an operator has stopped that.
	Deactivated bool `json:"deactivated,omitempty"`
	// Missing says that the master does not know the agent now: it is unreachable, or gone. Only Node is known then.
	Missing bool `json:"missing,omitempty"`
	// Recovering says that the agent has not come back to a new leading master yet.
	Recovering  bool      `json:"recovering,omitempty"`
	Draining    *Draining `json:"draining,omitempty"`
	Maintenance *Planned  `json:"maintenance,omitempty"`
	Total       Amounts   `json:"total"`
	// Reserved is what of Total is reserved, by role.
	Reserved map[string]Amounts `json:"reserved,omitempty"`
	// Allocated is what tasks and executors have, by role.
	Allocated map[string]Amounts `json:"allocated"`
	// Offered is what frameworks hold in offers.
	Offered Amounts `json:"offered"`
	// Frameworks is what their tasks and executors have there, by id: as far as the master lets the scheduler's principal see them.
	Frameworks map[string]Amounts `json:"frameworks"`
	// Tasks is the number of these tasks.
	Tasks int `json:"tasks"`
	// Node is the agent's Kubernetes node, as the scheduler knows it; nil for none. A node without a minion that is ready starts with
	// its first pod.
	Node *scheduler.LiveNode `json:"node,omitempty"`
}

// Draining is an agent's draining (https://mesos.apache.org/documentation/latest/maintenance/#automatic-node-draining).
type Draining struct {
	// State is "DRAINING" or "DRAINED".
	State string     `json:"state"`
	Since *time.Time `json:"since,omitempty"`
	// MaxGraceSeconds bounds the grace periods of tasks; nil for no bound.
	MaxGraceSeconds *float64 `json:"maxGraceSeconds,omitempty"`
	// MarkGone says that the agent will be marked gone when it is drained.
	MarkGone bool `json:"markGone,omitempty"`
}

// Planned is an agent's maintenance.
type Planned struct {
	Start time.Time `json:"start"`
	// End is nil if none is planned.
	End *time.Time `json:"end,omitempty"`
	// Mode is "UP" before an operator begins the maintenance, "DRAINING" once inverse offers are sent, and "DOWN" then.
	Mode string `json:"mode"`
}

// Window is a maintenance window.
type Window struct {
	Machines []Machine  `json:"machines"`
	Start    time.Time  `json:"start"`
	End      *time.Time `json:"end,omitempty"`
}

// Machine is a machine in a maintenance window.
type Machine struct {
	Hostname string `json:"hostname,omitempty"`
	IP       string `json:"ip,omitempty"`
	// Agents are the ids of the agents there now.
	Agents []string `json:"agents,omitempty"`
	// Mode is as in Planned.
	Mode string `json:"mode"`
}

// Framework is a framework.
type Framework struct {
	ID        string   `json:"id"`
	Name      string   `json:"name"`
	Principal string   `json:"principal,omitempty"`
	User      string   `json:"user,omitempty"`
	Roles     []string `json:"roles"`
	Hostname  string   `json:"hostname,omitempty"`
	// WebUI is a URL as the framework gave it: check it before it becomes a link.
	WebUI string `json:"webui,omitempty"`
	// Active says that it gets offers, Connected that its scheduler is connected, and Recovered that it has not come back to a new
	// leading master yet.
	Active     bool       `json:"active"`
	Connected  bool       `json:"connected"`
	Recovered  bool       `json:"recovered,omitempty"`
	Registered *time.Time `json:"registered,omitempty"`
	Allocated  Amounts    `json:"allocated"`
	Offered    Amounts    `json:"offered"`
	Tasks      int        `json:"tasks"`
}

// Role is a role (https://mesos.apache.org/documentation/latest/roles/).
type Role struct {
	Name   string  `json:"name"`
	Weight float64 `json:"weight"`
	Quota  *Quota  `json:"quota,omitempty"`
	// Allocated and Offered include those of the roles below it.
	Allocated Amounts `json:"allocated"`
	Offered   Amounts `json:"offered"`
	// DominantShare is the role's part of the resource of which its part is the largest, divided by its weight: Mesos offers first to
	// the role with the smallest (DRFSorter::calculateShare in src/master/allocator/mesos/sorter/drf/sorter.cpp). What is offered
	// counts, too. DominantResource is that resource; "" if the role has nothing.
	DominantShare    float64 `json:"dominantShare"`
	DominantResource string  `json:"dominantResource,omitempty"`
	// Frameworks are the ids of those that are subscribed to it or use its resources.
	Frameworks []string `json:"frameworks"`
}

// Quota is a role's quota (https://mesos.apache.org/documentation/latest/quota/).
type Quota struct {
	Guarantee Amounts `json:"guarantee,omitempty"`
	Limit     Amounts `json:"limit,omitempty"`
}
