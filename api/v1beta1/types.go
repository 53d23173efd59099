package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Object is an object of the API, or a list of them.
type Object interface {
	// Base returns the metadata, to read and to change.
	Base() *Meta
}

// Meta is what all objects begin with. On the wire it stands at the top level of the object. The order of the fields, here and
// below, is the order on the wire. Items of lists have neither kind nor apiVersion nor selfLink; objects of watches have no selfLink.
// There is no uid, as the first Kubernetes ignored and wrote none: a pod has its own in its manifest.
type Meta struct {
	Kind              string            `json:"kind,omitempty"`
	ID                string            `json:"id,omitempty"`
	CreationTimestamp metav1.Time       `json:"creationTimestamp"`
	SelfLink          string            `json:"selfLink,omitempty"`
	ResourceVersion   Version           `json:"resourceVersion,omitempty"` // 0 is none
	APIVersion        string            `json:"apiVersion,omitempty"`
	Namespace         string            `json:"namespace,omitempty"`
	Annotations       map[string]string `json:"annotations,omitempty"`
}

// Base returns the metadata.
func (m *Meta) Base() *Meta { return m }

// Pod is a group of containers on one minion.
type Pod struct {
	Meta         `json:",inline"`
	Labels       map[string]string `json:"labels,omitempty"`
	DesiredState PodState          `json:"desiredState"`
	CurrentState PodState          `json:"currentState"`
}

// PodState is what a pod shall be or is. Of the desired state clients write the manifest only.
type PodState struct {
	Manifest Manifest                   `json:"manifest"`
	Status   string                     `json:"status,omitempty"` // one of Waiting, Running, Terminated
	Host     string                     `json:"host,omitempty"`   // the minion's id
	HostIP   string                     `json:"hostIP,omitempty"`
	PodIP    string                     `json:"podIP,omitempty"`
	Info     map[string]ContainerStatus `json:"info,omitempty"` // by the container's name, and NetContainer
}

// Values of PodState.Status.
const (
	Waiting    = "Waiting"
	Running    = "Running"
	Terminated = "Terminated"
)

// NetContainer is the name, in PodState.Info, of what holds the pod's network.
const NetContainer = "net"

// Manifest describes the containers of a pod.
type Manifest struct {
	Version       string        `json:"version"`        // "v1beta1" or "v1beta2"
	ID            string        `json:"id"`             // the pod's; ignored when written
	UUID          string        `json:"uuid,omitempty"` // the pod's uid; ignored when written
	Volumes       []Volume      `json:"volumes"`
	Containers    []Container   `json:"containers"`
	RestartPolicy RestartPolicy `json:"restartPolicy"`
}

// RestartPolicy has one field set at most. None is Always.
type RestartPolicy struct {
	Always    *struct{} `json:"always,omitempty"`
	OnFailure *struct{} `json:"onFailure,omitempty"`
	Never     *struct{} `json:"never,omitempty"`
}

// Volume is a directory for the containers of a pod. Without a source it is an empty one.
type Volume struct {
	Name   string        `json:"name"`
	Source *VolumeSource `json:"source"`
}

// VolumeSource has one field set. PersistentDisk and GitRepo cannot be had any more.
type VolumeSource struct {
	HostDir        *HostDir        `json:"hostDir"`
	EmptyDir       *struct{}       `json:"emptyDir"`
	PersistentDisk *PersistentDisk `json:"persistentDisk"`
	GitRepo        *GitRepo        `json:"gitRepo,omitempty"`
}

// HostDir is a directory of the minion.
type HostDir struct {
	Path string `json:"path"`
}

// PersistentDisk is a disk of Google's cloud.
type PersistentDisk struct {
	PDName    string `json:"pdName"`
	FSType    string `json:"fsType,omitempty"`
	Partition int    `json:"partition,omitempty"`
	ReadOnly  bool   `json:"readOnly,omitempty"`
}

// GitRepo is a clone of a repository.
type GitRepo struct {
	Repository string `json:"repository"`
	Revision   string `json:"revision"`
}

// Container is one of a pod's.
type Container struct {
	Name            string         `json:"name"`
	Image           string         `json:"image"`
	Entrypoint      []string       `json:"entrypoint,omitempty"` // v1: command
	Command         []string       `json:"command,omitempty"`    // v1: args
	WorkingDir      string         `json:"workingDir,omitempty"`
	Ports           []Port         `json:"ports,omitempty"`
	Env             []EnvVar       `json:"env,omitempty"`
	Memory          int64          `json:"memory,omitempty"` // limit in bytes, 0 for none
	CPU             int64          `json:"cpu,omitempty"`    // limit in thousandths of a CPU, 0 for none
	VolumeMounts    []VolumeMount  `json:"volumeMounts,omitempty"`
	LivenessProbe   *LivenessProbe `json:"livenessProbe,omitempty"`
	Lifecycle       *Lifecycle     `json:"lifecycle,omitempty"`
	Privileged      bool           `json:"privileged,omitempty"`
	ImagePullPolicy string         `json:"imagePullPolicy"` // "PullAlways", "PullIfNotPresent", "PullNever", or "" for the default
}

// Port is a port that a container listens on.
type Port struct {
	Name          string `json:"name,omitempty"`
	HostPort      int32  `json:"hostPort,omitempty"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol,omitempty"` // "TCP" or "UDP"; "" is TCP
	HostIP        string `json:"hostIP,omitempty"`
}

// EnvVar is an environment variable. Name and Key are the same. Both are written; either is read, Name first.
type EnvVar struct {
	Name  string `json:"name"`
	Key   string `json:"key,omitempty"`
	Value string `json:"value,omitempty"`
}

// VolumeMount says where a container has a volume. MountPath and Path are the same. Both are written; either is read, MountPath
// first.
type VolumeMount struct {
	Name      string `json:"name"`
	ReadOnly  bool   `json:"readOnly,omitempty"`
	MountPath string `json:"mountPath,omitempty"`
	Path      string `json:"path,omitempty"`
}

// LivenessProbe restarts a container that does not answer. It has one of the three actions.
type LivenessProbe struct {
	HTTPGet             *HTTPGet   `json:"httpGet,omitempty"`
	TCPSocket           *TCPSocket `json:"tcpSocket,omitempty"`
	Exec                *Exec      `json:"exec,omitempty"`
	InitialDelaySeconds int32      `json:"initialDelaySeconds,omitempty"`
}

// HTTPGet is a request. Port is a number, or the name of a port of the container.
type HTTPGet struct {
	Path string             `json:"path,omitempty"`
	Port intstr.IntOrString `json:"port,omitempty"`
	Host string             `json:"host,omitempty"`
}

// TCPSocket is a connection that is opened. Port is as in HTTPGet.
type TCPSocket struct {
	Port intstr.IntOrString `json:"port,omitempty"`
}

// Exec is a command that is run in the container.
type Exec struct {
	Command []string `json:"command,omitempty"`
}

// Lifecycle says what is done after the start of a container and before its end.
type Lifecycle struct {
	PostStart *Handler `json:"postStart,omitempty"`
	PreStop   *Handler `json:"preStop,omitempty"`
}

// Handler has one of the two actions.
type Handler struct {
	Exec    *Exec    `json:"exec,omitempty"`
	HTTPGet *HTTPGet `json:"httpGet,omitempty"`
}

// ContainerStatus is what is known of a container.
type ContainerStatus struct {
	State        ContainerState `json:"state"`
	RestartCount int            `json:"restartCount"`
	PodIP        string         `json:"podIP,omitempty"` // NetContainer's only
	Image        string         `json:"image"`
}

// ContainerState has one field set. None means that nothing is known yet.
type ContainerState struct {
	Waiting     *StateWaiting    `json:"waiting,omitempty"`
	Running     *StateRunning    `json:"running,omitempty"`
	Termination *StateTerminated `json:"termination,omitempty"`
}

// StateWaiting is the state of a container that does not run yet.
type StateWaiting struct {
	Reason string `json:"reason,omitempty"`
}

// StateRunning is the state of a container that runs.
type StateRunning struct {
	StartedAt metav1.Time `json:"startedAt"`
}

// StateTerminated is the state of a container that has ended.
type StateTerminated struct {
	ExitCode   int         `json:"exitCode"`
	Signal     int         `json:"signal,omitempty"`
	Reason     string      `json:"reason,omitempty"`
	StartedAt  metav1.Time `json:"startedAt"`
	FinishedAt metav1.Time `json:"finishedAt"`
}

// ReplicationController keeps a number of equal pods.
type ReplicationController struct {
	Meta         `json:",inline"`
	DesiredState ReplicationControllerState `json:"desiredState"`
	CurrentState ReplicationControllerState `json:"currentState"`
	Labels       map[string]string          `json:"labels,omitempty"`
}

// ReplicationControllerState is what a replication controller shall keep, or keeps. Of the current state only Replicas is known.
type ReplicationControllerState struct {
	Replicas        int32             `json:"replicas"`
	ReplicaSelector map[string]string `json:"replicaSelector,omitempty"`
	PodTemplate     PodTemplate       `json:"podTemplate"`
}

// PodTemplate is what new pods are made of.
type PodTemplate struct {
	DesiredState PodState          `json:"desiredState"`
	Labels       map[string]string `json:"labels,omitempty"`
}

// Service is an address for the pods that it selects.
type Service struct {
	Meta                       `json:",inline"`
	Port                       int32              `json:"port"`
	Protocol                   string             `json:"protocol,omitempty"`
	Labels                     map[string]string  `json:"labels,omitempty"`
	Selector                   map[string]string  `json:"selector"`
	CreateExternalLoadBalancer bool               `json:"createExternalLoadBalancer,omitempty"`
	PublicIPs                  []string           `json:"publicIPs,omitempty"`
	ContainerPort              intstr.IntOrString `json:"containerPort"` // number or name; 0 is the first port of the first container
	PortalIP                   string             `json:"portalIP,omitempty"`
}

// Minion is a node.
type Minion struct {
	Meta          `json:",inline"`
	HostIP        string        `json:"hostIP,omitempty"`
	NodeResources NodeResources `json:"resources"`
}

// NodeResources is what a minion has.
type NodeResources struct {
	Capacity Capacity `json:"capacity"`
}

// Capacity is in thousandths of a CPU, and in bytes.
type Capacity struct {
	CPU    int64 `json:"cpu,omitempty"`
	Memory int64 `json:"memory,omitempty"`
}

// Endpoints are the addresses, "IP:PORT", of the service with the same id: those of the pods that it selects, or what was written.
type Endpoints struct {
	Meta      `json:",inline"`
	Endpoints []string `json:"endpoints"`
}

// Event tells what happened to an object.
type Event struct {
	Meta           `json:",inline"`
	InvolvedObject ObjectReference `json:"involvedObject"`
	Status         string          `json:"status,omitempty"`
	Reason         string          `json:"reason,omitempty"`
	Message        string          `json:"message,omitempty"`
	Source         string          `json:"source,omitempty"`
	Timestamp      metav1.Time     `json:"timestamp"`
}

// ObjectReference names an object.
type ObjectReference struct {
	Kind            string `json:"kind,omitempty"`
	Namespace       string `json:"namespace,omitempty"`
	Name            string `json:"name,omitempty"`
	UID             string `json:"uid,omitempty"`
	APIVersion      string `json:"apiVersion,omitempty"`
	ResourceVersion string `json:"resourceVersion,omitempty"`
	FieldPath       string `json:"fieldPath,omitempty"`
}

// Binding places a pod on a minion. It is written only.
type Binding struct {
	Meta  `json:",inline"`
	PodID string `json:"podID"`
	Host  string `json:"host"`
}

// Operation names a request whose answer can be asked for.
type Operation struct {
	Meta `json:",inline"`
}

// PodList is a list of pods.
type PodList struct {
	Meta  `json:",inline"`
	Items []Pod `json:"items"`
}

// ReplicationControllerList is a list of replication controllers.
type ReplicationControllerList struct {
	Meta  `json:",inline"`
	Items []ReplicationController `json:"items"`
}

// ServiceList is a list of services.
type ServiceList struct {
	Meta  `json:",inline"`
	Items []Service `json:"items"`
}

// MinionList is a list of minions. Both fields have the same: clients older than v1beta1's last ones read Minions.
type MinionList struct {
	Meta    `json:",inline"`
	Minions []Minion `json:"minions"`
	Items   []Minion `json:"items"`
}

// EndpointsList is a list of endpoints.
type EndpointsList struct {
	Meta  `json:",inline"`
	Items []Endpoints `json:"items"`
}

// EventList is a list of events.
type EventList struct {
	Meta  `json:",inline"`
	Items []Event `json:"items"`
}

// OperationList is a list of operations. Its kind is ServerOpList.
type OperationList struct {
	Meta  `json:",inline"`
	Items []Operation `json:"items"`
}

// Status is the answer to what failed, and to what has no other answer. It is an error, too: all errors of this package are *Status.
type Status struct {
	Meta    `json:",inline"`
	Status  string         `json:"status,omitempty"` // one of Success, Failure, Working
	Message string         `json:"message,omitempty"`
	Reason  string         `json:"reason,omitempty"` // the words of v1, and Working
	Details *StatusDetails `json:"details,omitempty"`
	Code    int            `json:"code,omitempty"` // of HTTP
}

// Values of Status.Status.
const (
	Success = "Success"
	Failure = "Failure"
	Working = "Working"
)

// StatusDetails names the object that a Status is about.
type StatusDetails struct {
	ID     string  `json:"id,omitempty"`
	Kind   string  `json:"kind,omitempty"` // Resource.Singular, or "operation"
	Causes []Cause `json:"causes,omitempty"`
}

// Cause is one thing that is wrong with an object.
type Cause struct {
	Reason  string `json:"reason,omitempty"` // the words of v1's CauseType
	Message string `json:"message,omitempty"`
	Field   string `json:"field,omitempty"` // desiredState.manifest.containers[0].name
}

// WatchEvent is one line of the answer to a watch.
type WatchEvent struct {
	Type   string `json:"type"` // ADDED, MODIFIED, DELETED
	Object Object `json:"object"`
}
