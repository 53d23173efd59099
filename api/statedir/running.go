package statedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Running is what `km up` tells programs about a cluster that is up. They find it by Dir.Running.
type Running struct {
	// PID is the process id of km up.
	PID int `json:"pid"`
	// Version is that of its km, an api.KMVersion.
	Version string `json:"version"`
	// Kubeconfig is the path of the administrator's kubeconfig.
	Kubeconfig string `json:"kubeconfig"`
	// MesosMaster is the URL of the Mesos master.
	MesosMaster string `json:"mesosMaster"`
	// MesosPrincipal and the secret in the file MesosSecretFile authenticate to the master by HTTP basic.
	MesosPrincipal  string `json:"mesosPrincipal"`
	MesosSecretFile string `json:"mesosSecretFile"`
	// Status is where the scheduler serves its status, as "host:port"; "" if it serves none.
	Status string `json:"status,omitempty"`
	// Nodes are the cluster's nodes.
	Nodes []RunningNode `json:"nodes"`
}

// RunningNode is a node of a cluster that is up.
type RunningNode struct {
	Name string `json:"name"`
	// DockerHost is the address of the Docker Engine that the node's pods run in, such as "unix:///var/run/docker.sock".
	DockerHost string `json:"dockerHost"`
}

// runningNote is there while the cluster is up, and after km up was killed.
func (d Dir) runningNote() string { return d.path("running.json") }

// WriteRunning records that the cluster is up. The file appears at once and whole.
func (d Dir) WriteRunning(r Running) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode how to reach the cluster: %w", err)
	}
	return writeFile(d.runningNote(), append(data, '\n'))
}

// Running returns what WriteRunning recorded last. The error is ErrNoCluster when there is no record: the cluster is not up yet, or
// not any more. A killed km up leaves its record behind, so compare PID, or see whether the process lives.
func (d Dir) Running() (Running, error) {
	data, err := os.ReadFile(d.runningNote())
	if errors.Is(err, fs.ErrNotExist) {
		return Running{}, fmt.Errorf("%w in %s that is up", ErrNoCluster, string(d))
	}
	if err != nil {
		return Running{}, fmt.Errorf("cannot read how to reach the cluster: %w", err)
	}
	var r Running
	if err := json.Unmarshal(data, &r); err != nil {
		return Running{}, fmt.Errorf("cannot read how to reach the cluster from %s: %w", d.runningNote(), err)
	}
	return r, nil
}

// RemoveRunning takes the record away, if there is one.
func (d Dir) RemoveRunning() error {
	if err := os.Remove(d.runningNote()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the record of a cluster that is up: %w", err)
	}
	return nil
}
