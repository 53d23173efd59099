package api

import (
	"encoding/json"
	"fmt"
)

// Bootstrap is what ExecutorInfo.data carries, as JSON: enough for a minion to find its API server and to prove which
// node it is. Mesos compares an ExecutorInfo whole, so nothing that may change belongs here; what may change is in
// MinionConfig.
type Bootstrap struct {
	// Cluster is the k8sm cluster's name (--name), which labels all that a minion makes.
	Cluster string `json:"cluster"`
	// Node is the name of the node that the minion runs.
	Node string `json:"node"`
	// APIServer is the URL of the kube-apiserver.
	APIServer string `json:"apiServer"`
	// CA is the PEM of the authority that signed the API server's certificate.
	CA []byte `json:"ca"`
	// Token is a Kubernetes bootstrap token ("id.secret"), good for a short time and for this node only
	// (https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/).
	Token string `json:"token"`
}

// ParseBootstrap reads a Bootstrap and checks that nothing is missing.
func ParseBootstrap(data []byte) (Bootstrap, error) {
	var b Bootstrap
	if err := json.Unmarshal(data, &b); err != nil {
		return Bootstrap{}, fmt.Errorf("cannot read the executor's bootstrap data: %w", err)
	}
	for name, value := range map[string]string{
		"cluster": b.Cluster, "node": b.Node, "apiServer": b.APIServer, "ca": string(b.CA), "token": b.Token,
	} {
		if value == "" {
			return Bootstrap{}, fmt.Errorf("the executor's bootstrap data has no %q", name)
		}
	}
	return b, nil
}

// MinionConfig is what all minions of a cluster are told by the ConfigMap MinionConfigName, as JSON. Empty fields mean
// the minion's own default.
type MinionConfig struct {
	// ClusterDomain is the DNS domain of the cluster, such as "cluster.local".
	ClusterDomain string `json:"clusterDomain,omitempty"`
	// ClusterDNS are the addresses of the cluster's DNS servers; empty while the cluster has none.
	ClusterDNS []string `json:"clusterDNS,omitempty"`
	// ClusterCIDR is the range that pod addresses come from.
	ClusterCIDR string `json:"clusterCIDR,omitempty"`
	// ServiceCIDR is the range that service addresses come from.
	ServiceCIDR string `json:"serviceCIDR,omitempty"`
	// RootDir is where minions keep what outlives a sandbox; each node has a folder of its own below it.
	RootDir string `json:"rootDir,omitempty"`
	// DockerHost is the Docker Engine's address, such as "unix:///var/run/docker.sock".
	DockerHost string `json:"dockerHost,omitempty"`
}
