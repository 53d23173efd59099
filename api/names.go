package api

import "strings"

// KeyPrefix precedes the keys of our annotations, labels and taints.
const KeyPrefix = "k8sm.io/"

// AdminGroup is the group whose members may do everything in a Kubernetes cluster
// (https://kubernetes.io/docs/reference/access-authn-authz/rbac/#user-facing-roles).
const AdminGroup = "system:masters"

// PodSchedulerAnnotations are the annotations of pods that only the scheduler may write: the pod's node and the scheduler itself do
// what they say.
func PodSchedulerAnnotations() []string {
	return []string{AnnotationTaskID, AnnotationAgentID, AnnotationOfferID, AnnotationPortMappings, AnnotationIPAssigned}
}

// Annotations that the binding writes to a pod. So the API server knows which task belongs to the pod.
const (
	AnnotationTaskID  = "k8sm.io/task-id"
	AnnotationAgentID = "k8sm.io/agent-id"
	AnnotationOfferID = "k8sm.io/offer-id"
)

// Annotations by which a pod restricts the Mesos offers that it may use.
const (
	// AnnotationRoles lists the Mesos roles whose offers the pod may use, the preferred one first: "batch,*". The default is all
	// roles of the framework.
	AnnotationRoles = "k8sm.io/roles"
	// AnnotationPortMapping may have the value PortMappingWildcard.
	AnnotationPortMapping = "k8sm.io/port-mapping"
	// PortMappingWildcard requests a free port of the node for each containerPort without a hostPort.
	PortMappingWildcard = "wildcard"
	// AnnotationPortMappings is the answer, written by the binding: see FormatPortMappings. Only the scheduler may write it, because
	// the node publishes whatever it says.
	AnnotationPortMappings = "k8sm.io/port-mappings"
	// AnnotationRevocable with the value "true" lets the pod use revocable cpus, which Mesos may take back
	// (https://mesos.apache.org/documentation/latest/oversubscription/).
	AnnotationRevocable = "k8sm.io/revocable"
)

// Names on Kubernetes objects.
const (
	// SchedulerName may be a pod's spec.schedulerName; pods with Kubernetes' default name are ours, too.
	SchedulerName = "k8sm"
	// LabelAttributePrefix precedes the name of a Mesos agent attribute in a node's labels.
	LabelAttributePrefix = "k8sm.io/attribute-"
	// LabelNode, on a bootstrap token's secret, names the only node for which the token may request a certificate.
	LabelNode = "k8sm.io/node"
	// LabelNodeSlices, on the ConfigMaps of package nodeslices, is the version of their format.
	LabelNodeSlices = "k8sm.io/node-slices"
	// AnnotationMinionBefore, on a bootstrap token's secret, is the AnnotationMinionStarted that the node had when the token was made;
	// "" for none. Another one means that a minion has started since and has a certificate: the token has done its work.
	AnnotationMinionBefore = "k8sm.io/minion-before"
	// AnnotationTokenKey, on a bootstrap token's secret, is the SHA-256 of the public key that the token got a certificate for. It
	// gets none for another key.
	AnnotationTokenKey = "k8sm.io/token-key"
	// BootstrapGroup is the group of all bootstrap tokens that the scheduler creates.
	BootstrapGroup = "system:bootstrappers:k8sm"
	// BootstrapSecretPrefix begins the names of the secrets that are bootstrap tokens; the token's id follows
	// (https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/#bootstrap-token-secret-format).
	BootstrapSecretPrefix = "bootstrap-token-"
	// NodeUserPrefix begins the user names of nodes, before the node's name, and NodesGroup is their group
	// (https://kubernetes.io/docs/reference/access-authn-authz/node/).
	NodeUserPrefix = "system:node:"
	NodesGroup     = "system:nodes"
	// SchedulerUser is the user name in the scheduler's client certificate.
	SchedulerUser = "system:k8sm-scheduler"
)

// Membership describes a Service without a selector. Each of its servers adds itself with an EndpointSlice of its own, and has a Lease
// as long as it lives. Objects of a server have the label Label with the server's name.
type Membership struct {
	Namespace, Service string
	// LeaseNamespace has the servers' leases and no others, because RBAC cannot tell them from those by which controllers elect leaders.
	LeaseNamespace string
	Label          string
	// User is the user name in the client certificate of the servers; Owner manages the fields of their objects.
	User, Owner string
}

// ObjectPrefix precedes the server's name in the names of its EndpointSlice and its Lease.
func (m Membership) ObjectPrefix() string { return m.Service + "-" }

// Names of the cluster's DNS.
const (
	DNSServiceNamespace = "kube-system"
	DNSServiceName      = "kube-dns"
	// DNSPortName and DNSTCPPortName are the names of the service's two ports 53.
	DNSPortName    = "dns"
	DNSTCPPortName = "dns-tcp"
	// LabelDNSReplica is the Membership's label.
	LabelDNSReplica = "k8sm.io/dns-replica"
	// DNSUser is the user name in the client certificate of the DNS servers.
	DNSUser = "system:k8sm-dns"
)

// DNSMembership describes the service of the cluster's DNS.
func DNSMembership() Membership {
	return Membership{
		Namespace: DNSServiceNamespace, Service: DNSServiceName, LeaseNamespace: "k8sm-dns", Label: LabelDNSReplica,
		User: DNSUser, Owner: "dns.k8sm.io",
	}
}

// Names of the cluster's metrics.
const (
	MetricsServiceNamespace = "kube-system"
	MetricsServiceName      = "k8sm-metrics"
	// MetricsPortName is the name of the service's port 443.
	MetricsPortName = "https"
	// LabelMetricsServer is the Membership's label.
	LabelMetricsServer = "k8sm.io/metrics-server"
	// MetricsUser is the user name in the client certificate of the metrics servers.
	MetricsUser = "system:k8sm-metrics"
	// MetricsGroup is the API group of stored metrics, MetricsVersion its version, and MetricsResource the resource that has all of them.
	MetricsGroup, MetricsVersion, MetricsResource = "monitoring.k8sm.io", "v1", "prometheus"
	// What pods used over a time, in MetricsGroup: pods with one of these as a subresource.
	UsageCPU, UsageMemory, UsageReceived, UsageSent = "cpu", "memory", "network-received", "network-sent"
)

// MetricsMembership describes the service by which API servers reach the metrics servers.
func MetricsMembership() Membership {
	return Membership{
		Namespace: MetricsServiceNamespace, Service: MetricsServiceName, LeaseNamespace: "k8sm-metrics", Label: LabelMetricsServer,
		User: MetricsUser, Owner: "metrics.k8sm.io",
	}
}

// AnnotationLogMultiline, on a pod, is a regular expression (https://github.com/google/re2/wiki/Syntax) that matches the lines of its
// containers which begin an entry of the log stores. All other lines are joined to the one before them.
const AnnotationLogMultiline = "k8sm.io/log-multiline"

// Names of the cluster's logs.
const (
	LogsServiceNamespace = "kube-system"
	LogsServiceName      = "k8sm-logs"
	// LogsPortName is the name of the service's port 443. Minions connect to the ports of the EndpointSlices.
	LogsPortName = "https"
	// LabelLogsServer is the Membership's label.
	LabelLogsServer = "k8sm.io/logs-server"
	// LogsUser is the user name in the client certificate of the log stores.
	LogsUser = "system:k8sm-logs"
	// LogsGroup is the API group by which logs are read, and LogsVersion its version. It has the resource pods with the subresource log
	// for what containers write, and LogsComponents and LogsFrameworks with the same subresource for administrators.
	LogsGroup, LogsVersion = "logs.k8sm.io", "v1"
	LogsComponents         = "components" // what the cluster itself writes
	LogsFrameworks         = "frameworks" // what tasks of other Mesos frameworks send
)

// LogsMembership describes the service by which minions and API servers reach the log stores.
func LogsMembership() Membership {
	return Membership{
		Namespace: LogsServiceNamespace, Service: LogsServiceName, LeaseNamespace: "k8sm-logs", Label: LabelLogsServer,
		User: LogsUser, Owner: "logs.k8sm.io",
	}
}

// The ConfigMap with the MinionConfig. Bootstrap tokens and nodes may read it.
const (
	MinionConfigNamespace = "kube-system"
	MinionConfigName      = "k8sm-minion"
	MinionConfigKey       = "config.json"
)

// Labels on all Docker containers and networks of k8sm. It never touches others.
const (
	DockerLabelFramework = "io.k8sm.framework" // Bootstrap.Cluster
	DockerLabelNode      = "io.k8sm.node"      // the node's name
)

// ExecutorVersion is part of the executor's id. Increment it when this build's ExecutorInfo cannot replace that of the previous
// build: Mesos refuses a changed ExecutorInfo under the same id.
const ExecutorVersion = "v1"

// MinionExecutorID is the id of the executor that runs `km minion` on each agent.
const MinionExecutorID ExecutorID = "k8sm-minion." + ExecutorVersion

// AttributeLabel returns the node label key for a Mesos attribute's name. Characters that are not allowed in a label key become '-'.
func AttributeLabel(attribute string) string { return LabelAttributePrefix + labelSafe(attribute) }

// LabelValue converts a Mesos attribute's value to a label value: at most 63 characters; all but letters, digits, '-', '_' and '.'
// become '-'; it begins and ends with a letter or digit
// (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/).
func LabelValue(value string) string { return labelSafe(value) }

func labelSafe(s string) string {
	s = strings.Map(func(r rune) rune {
		if isAlphanumeric(r) || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '-'
	}, s)
	if len(s) > 63 {
		s = s[:63]
	}
	return strings.TrimFunc(s, func(r rune) bool { return !isAlphanumeric(r) })
}

func isAlphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}
