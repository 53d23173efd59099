package cri

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/k8sm/k8sm/api"
)

// Labels on our Docker containers besides api.DockerLabelFramework and api.DockerLabelNode.
const (
	labelKind    = "io.k8sm.kind"    // kindSandbox or kindContainer
	labelSandbox = "io.k8sm.sandbox" // on a container: its sandbox's id
	labelRecord  = "io.k8sm.record"  // a sandboxRecord or containerRecord as JSON

	kindSandbox   = "sandbox"
	kindContainer = "container"
	kindCopy      = "copy" // never runs: an image's files are read from it
)

// sandboxRecord is what CRI reports of a sandbox and Docker has no field for.
type sandboxRecord struct {
	Metadata    *runtimeapi.PodSandboxMetadata `json:"metadata"`
	Labels      map[string]string              `json:"labels,omitempty"`
	Annotations map[string]string              `json:"annotations,omitempty"`
	Handler     string                         `json:"handler,omitempty"`
	Namespaces  *runtimeapi.NamespaceOption    `json:"namespaces,omitempty"`
	// ResolvConf is the file on the host that the pod's containers mount as /etc/resolv.conf.
	ResolvConf string `json:"resolvConf"`
}

// containerRecord is the same for a container.
type containerRecord struct {
	Metadata    *runtimeapi.ContainerMetadata `json:"metadata"`
	Labels      map[string]string             `json:"labels,omitempty"`
	Annotations map[string]string             `json:"annotations,omitempty"`
	Image       *runtimeapi.ImageSpec         `json:"image"`
	Mounts      []*runtimeapi.Mount           `json:"mounts,omitempty"`
	// LogPath is the absolute path of the log in CRI's format; empty if there is to be no log.
	LogPath string `json:"logPath,omitempty"`
	// Cgroup are the settings to write to its cgroup when it runs.
	Cgroup []cgroupSetting `json:"cgroup,omitempty"`
}

// owner is the cluster and node whose containers a server may touch.
type owner struct {
	cluster string
	node    string
}

// labels returns the Docker labels of a new container. Kubernetes' labels are among them for `docker ps --filter`. CRI reads them
// from the record, because an image may have labels with the same names.
func (o owner) labels(kind string, kubernetes map[string]string, record any) (map[string]string, error) {
	data, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("cannot record a %s: %w", kind, err)
	}
	labels := make(map[string]string, len(kubernetes)+5)
	maps.Copy(labels, kubernetes)
	labels[api.DockerLabelFramework] = o.cluster
	labels[api.DockerLabelNode] = o.node
	labels[labelKind] = kind
	labels[labelRecord] = string(data)
	return labels, nil
}

// owns reports whether the container with these labels is ours.
func (o owner) owns(labels map[string]string) bool {
	return labels[api.DockerLabelFramework] == o.cluster && labels[api.DockerLabelNode] == o.node &&
		(labels[labelKind] == kindSandbox || labels[labelKind] == kindContainer)
}

// readSandbox returns the record of the sandbox with these Docker labels.
func readSandbox(labels map[string]string) (*sandboxRecord, error) {
	r := new(sandboxRecord)
	if err := json.Unmarshal([]byte(labels[labelRecord]), r); err != nil {
		return nil, fmt.Errorf("cannot read a sandbox's record: %w", err)
	}
	return r, nil
}

// readContainer returns the record of the container with these Docker labels.
func readContainer(labels map[string]string) (*containerRecord, error) {
	r := new(containerRecord)
	if err := json.Unmarshal([]byte(labels[labelRecord]), r); err != nil {
		return nil, fmt.Errorf("cannot read a container's record: %w", err)
	}
	return r, nil
}

// sandboxName is the Docker name of a sandbox. It is unique per sandbox, so Docker itself refuses to run one twice. Two nodes may
// share one Engine (agents of a local Mesos), but never a pod.
func sandboxName(m *runtimeapi.PodSandboxMetadata) string {
	return strings.Join([]string{"k8s", "POD", m.GetName(), m.GetNamespace(), m.GetUid(), fmt.Sprint(m.GetAttempt())}, "_")
}

// containerName is the Docker name of a container in the sandbox.
func containerName(m *runtimeapi.ContainerMetadata, sandbox *runtimeapi.PodSandboxMetadata) string {
	return strings.Join([]string{"k8s", m.GetName(), sandbox.GetName(), sandbox.GetNamespace(), sandbox.GetUid(),
		fmt.Sprint(m.GetAttempt())}, "_")
}

// selects reports whether labels match a CRI label selector.
func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if got, ok := labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}
