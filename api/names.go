package api

import "strings"

// Annotations that the binding writes onto a pod. The API server is thereby the truth about which task is the pod's.
const (
	AnnotationTaskID  = "k8sm.io/task-id"
	AnnotationAgentID = "k8sm.io/agent-id"
	AnnotationOfferID = "k8sm.io/offer-id"
)

// Annotations by which a pod says what it wants of the offers of Mesos.
const (
	// AnnotationRoles names the Mesos roles whose offers the pod may use, the preferred one first: "batch,*". Without it
	// they are all roles of the framework.
	AnnotationRoles = "k8sm.io/roles"
	// AnnotationPortMapping may have the value PortMappingWildcard.
	AnnotationPortMapping = "k8sm.io/port-mapping"
	// PortMappingWildcard asks for a free port of the node for each containerPort that names no hostPort.
	PortMappingWildcard = "wildcard"
	// AnnotationPortMappings is the answer, which the binding writes: see FormatPortMappings. The node publishes what it
	// says, so it is the scheduler's alone to write.
	AnnotationPortMappings = "k8sm.io/port-mappings"
	// AnnotationRevocable with the value "true" lets the pod have cpus that Mesos may take back
	// (https://mesos.apache.org/documentation/latest/oversubscription/).
	AnnotationRevocable = "k8sm.io/revocable"
)

// Names on Kubernetes objects.
const (
	// SchedulerName may be given as a pod's spec.schedulerName; pods with Kubernetes' default name are ours too.
	SchedulerName = "k8sm"
	// LabelAttributePrefix comes before the name of a Mesos agent attribute in a node's labels.
	LabelAttributePrefix = "k8sm.io/attribute-"
	// LabelNode, on a bootstrap token's secret, is the only node whose certificate may be asked for with it.
	LabelNode = "k8sm.io/node"
	// BootstrapGroup is the group of all bootstrap tokens that the scheduler hands out.
	BootstrapGroup = "system:bootstrappers:k8sm"
	// SchedulerUser is the user name that the scheduler's client certificate carries.
	SchedulerUser = "system:k8sm-scheduler"
)

// The cluster's DNS: a Service without a selector, which each replica of the DNS server adds itself to by an EndpointSlice of
// its own. What a replica has carries LabelDNSReplica with the replica's name.
const (
	DNSServiceNamespace = "kube-system"
	DNSServiceName      = "kube-dns"
	// DNSPortName and DNSTCPPortName tell the service's two ports 53 apart.
	DNSPortName    = "dns"
	DNSTCPPortName = "dns-tcp"
	// DNSLeaseNamespace holds a Lease for each replica that lives.
	DNSLeaseNamespace = "k8sm-dns"
	LabelDNSReplica   = "k8sm.io/dns-replica"
	// DNSUser is the user name that the client certificate of the DNS servers carries.
	DNSUser = "system:k8sm-dns"
)

// Where a minion finds its MinionConfig: a ConfigMap that bootstrap tokens and nodes may read.
const (
	MinionConfigNamespace = "kube-system"
	MinionConfigName      = "k8sm-minion"
	MinionConfigKey       = "config.json"
)

// Labels on all Docker containers and networks that k8sm makes. What does not carry them is never touched.
const (
	DockerLabelFramework = "io.k8sm.framework" // Bootstrap.Cluster
	DockerLabelNode      = "io.k8sm.node"      // the node's name
)

// ExecutorVersion is part of the executor's id. It goes up when an ExecutorInfo of this build could not stand in for
// one of the build before, because Mesos refuses a changed ExecutorInfo under an old id.
const ExecutorVersion = "v1"

// MinionExecutorID is the id of the executor that runs `km minion` on each agent.
const MinionExecutorID ExecutorID = "k8sm-minion." + ExecutorVersion

// AttributeLabel returns the node label key for a Mesos attribute's name; characters that a label key cannot have
// become '-'.
func AttributeLabel(attribute string) string { return LabelAttributePrefix + labelSafe(attribute) }

// LabelValue returns a Mesos attribute's value as a label value: at most 63 characters, others than letters, digits,
// '-', '_' and '.' become '-', and it begins and ends with a letter or digit
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
