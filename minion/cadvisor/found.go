package cadvisor

import (
	"encoding/json"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubetypes "k8s.io/kubelet/pkg/types"
)

// found is what the runtime interface says of a container or sandbox.
type found struct {
	id, name, image string
	labels          map[string]string
	sandbox         bool
	// network says that it is a sandbox with a network of its own. The pod's containers share that; a sandbox in the host's network has
	// none.
	network bool
	// pid is of its first process, in the node's namespace; 0 while it starts.
	pid int
}

// verbose is the detail with the key "info" in an answer of package cri.
type verbose struct {
	PID         int `json:"pid"`
	Name, Image string
}

func foundContainer(r *runtimeapi.ContainerStatusResponse) (found, error) {
	details, err := readVerbose(r.GetInfo())
	s := r.GetStatus()
	return found{id: s.GetId(), name: details.Name, image: s.GetImage().GetImage(), labels: identity(s.GetLabels()), pid: details.PID}, err
}

func foundSandbox(r *runtimeapi.PodSandboxStatusResponse) (found, error) {
	details, err := readVerbose(r.GetInfo())
	s := r.GetStatus()
	return found{
		id: s.GetId(), name: details.Name, image: details.Image, labels: identity(s.GetLabels()), pid: details.PID, sandbox: true,
		network: s.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtimeapi.NamespaceMode_POD,
	}, err
}

func readVerbose(details map[string]string) (v verbose, err error) {
	if err := json.Unmarshal([]byte(details["info"]), &v); err != nil {
		return v, fmt.Errorf("cannot read the details of a container: %w", err)
	}
	return v, nil
}

// identity returns the kubelet's labels. The others are of whoever made the pod: cAdvisor would read files and URLs that its own
// labels, "io.cadvisor.metric.…", name.
func identity(labels map[string]string) map[string]string {
	own := map[string]string{}
	for _, key := range []string{
		kubetypes.KubernetesPodNameLabel, kubetypes.KubernetesPodNamespaceLabel, kubetypes.KubernetesPodUIDLabel, kubetypes.KubernetesContainerNameLabel,
	} {
		if value, ok := labels[key]; ok {
			own[key] = value
		}
	}
	return own
}
