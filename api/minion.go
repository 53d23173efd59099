package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bootstrap is what ExecutorInfo.data carries, as JSON: enough for a minion to find its API server and to prove which
// node it is. Mesos compares an ExecutorInfo whole, so nothing that may change belongs here; what may change is in
// MinionConfig.
type Bootstrap struct {
	// Cluster is the k8sm cluster's name (--cluster-name), which labels all that a minion makes.
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
	// Network is how pods of different nodes reach each other.
	Network PodNetwork `json:"network,omitzero"`
	// RootDir is where minions keep what outlives a sandbox; each node has a folder of its own below it.
	RootDir string `json:"rootDir,omitempty"`
	// DockerHost is the Docker Engine's address, such as "unix:///var/run/docker.sock".
	DockerHost string `json:"dockerHost,omitempty"`
	// IdleTimeout is how long a minion without tasks stays; zero is for ever. Minions of older versions read it by this key.
	IdleTimeout *metav1.Duration `json:"suicideTimeout,omitempty"`
	// CleanupDelay is how long a node may be without a minion, after one was killed, before its warden removes what is left.
	CleanupDelay *metav1.Duration `json:"cleanupDelay,omitempty"`
	// StaticPods is a directory, on each node, of manifests of pods that its kubelet runs besides the cluster's
	// (https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/).
	StaticPods string `json:"staticPods,omitempty"`
	// ContainPods puts the pods' containers below the cgroup of the Mesos container that the minion runs in.
	ContainPods *bool `json:"containPods,omitempty"`
	// ProxyMode is by what kube-proxies lead packets to services.
	ProxyMode ProxyMode `json:"proxyMode,omitempty"`
	// NodePorts is the range that services of type NodePort have their ports from, such as "30000-30999". Schedulers read it
	// too: no pod is given one of these ports of a node.
	NodePorts string `json:"nodePorts,omitempty"`
	// NetworkPolicy says whether minions enforce network policies; see EnforcesNetworkPolicies.
	NetworkPolicy *bool `json:"networkPolicy,omitempty"`
	// EvictionHard is what the kubelet keeps free by evicting pods: a quantity or a percentage by each signal
	// (https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#hard-eviction-thresholds).
	EvictionHard map[string]string `json:"evictionHard,omitempty"`
}

// MinionEngineFlag is the flag of a minion's command by which the scheduler tells it of the cluster's Docker Engine, if that is
// not at the usual place: where Mesos puts the minion into a container, it needs the Engine before it can reach the cluster.
const MinionEngineFlag = "engine"

// ReadMinionConfig reads it from the data of the ConfigMap MinionConfigName.
func ReadMinionConfig(data map[string]string) (c MinionConfig, err error) {
	if err := json.Unmarshal([]byte(data[MinionConfigKey]), &c); err != nil {
		return c, fmt.Errorf("cannot read %s of ConfigMap %s/%s: %w", MinionConfigKey, MinionConfigNamespace, MinionConfigName, err)
	}
	return c, nil
}

// EnforcesNetworkPolicies tells whether minions do: unless they are told not to, or pods are on a network of a CNI plugin, whose
// affair they are then.
func (c MinionConfig) EnforcesNetworkPolicies() bool {
	return (c.NetworkPolicy == nil || *c.NetworkPolicy) && c.Network.Mode != NetworkCNI
}

// ProxyMode is one of the ways in which kube-proxy works
// (https://kubernetes.io/docs/reference/networking/virtual-ips/#proxy-modes).
type ProxyMode string

// The modes that there are here.
const (
	ProxyIPTables ProxyMode = "iptables"
	ProxyNFTables ProxyMode = "nftables"
)

// What a minion does that is told nothing else.
const (
	DefaultProxyMode   = ProxyIPTables
	DefaultIdleTimeout = 20 * time.Minute
	// DefaultCleanupDelay is as long as Kubernetes waits before it replaces the pods of a node that is not ready (the default
	// tolerationSeconds of https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-based-evictions).
	// It begins to count later, when the node has been silent for 40 s: what is replaced has been removed.
	DefaultCleanupDelay = 5 * time.Minute
	DefaultEvictionHard = "memory.available<100Mi,nodefs.available<1Gi,imagefs.available<1Gi"
)

// evictionSignals are those that thresholds can be set for, in the kubelet of KubernetesVersion.
var evictionSignals = []string{
	"memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree", "pid.available",
}

// ParseEviction reads thresholds as the flags of stock kubelets have them: "memory.available<100Mi,nodefs.available<10%".
// It refuses what a kubelet would refuse when it starts.
func ParseEviction(text string) (map[string]string, error) {
	thresholds := map[string]string{}
	for _, part := range strings.Split(text, ",") {
		signal, value, ok := strings.Cut(strings.TrimSpace(part), "<")
		if !ok {
			return nil, fmt.Errorf("%q is not SIGNAL<VALUE, such as memory.available<100Mi", part)
		}
		if _, twice := thresholds[signal]; twice {
			return nil, fmt.Errorf("%s is given twice", signal)
		}
		thresholds[signal] = value
	}
	return thresholds, checkEviction(thresholds)
}

func checkEviction(thresholds map[string]string) error {
	for signal, value := range thresholds {
		if !slices.Contains(evictionSignals, signal) {
			return fmt.Errorf("no signal %q: there are %s", signal, strings.Join(evictionSignals, ", "))
		}
		if _, err := EvictionThreshold(value, 1); err != nil {
			return fmt.Errorf("%s: %w", signal, err)
		}
	}
	return nil
}

// EvictionThreshold returns what a threshold keeps free of the capacity, as the kubelet counts it.
func EvictionThreshold(value string, capacity int64) (int64, error) {
	if percentage, ok := strings.CutSuffix(value, "%"); ok {
		number, err := strconv.ParseFloat(percentage, 32)
		if err != nil || !(number >= 0 && number <= 100) { // nor is NaN
			return 0, fmt.Errorf("%q is not a percentage from 0%% to 100%%", value)
		}
		return int64(float64(capacity) * float64(float32(number)/100)), nil
	}
	quantity, err := resource.ParseQuantity(value)
	if err != nil || quantity.Sign() <= 0 {
		return 0, fmt.Errorf("%q is neither a quantity above 0, such as 100Mi, nor a percentage; 0%% sets no threshold", value)
	}
	return quantity.Value(), nil
}

// Validate tells what a minion could not do, by the names of the flags of `km apiserver`.
func (c MinionConfig) Validate() error {
	for flag, dir := range map[string]string{"node-root-dir": c.RootDir, "static-pod-path": c.StaticPods} {
		if dir != "" && !path.IsAbs(dir) {
			return fmt.Errorf("cannot use --%s=%s: minions run in a directory that Mesos chooses, so give an absolute path", flag, dir)
		}
	}
	if c.IdleTimeout != nil && c.IdleTimeout.Duration < 0 {
		return fmt.Errorf("cannot use --minion-idle-timeout=%s: give a time such as 20m, or 0 for ever", c.IdleTimeout.Duration)
	}
	if c.CleanupDelay != nil && c.CleanupDelay.Duration <= 0 {
		return fmt.Errorf("cannot use --minion-cleanup-delay=%s: give a time such as 5m", c.CleanupDelay.Duration)
	}
	if err := checkEviction(c.EvictionHard); err != nil {
		return fmt.Errorf("cannot use --eviction-hard: %w", err)
	}
	if !slices.Contains([]ProxyMode{"", ProxyIPTables, ProxyNFTables}, c.ProxyMode) {
		return fmt.Errorf("cannot use --proxy-mode=%s: give %s or %s", c.ProxyMode, ProxyIPTables, ProxyNFTables)
	}
	if _, _, err := c.NodePortRange(); err != nil {
		return fmt.Errorf("cannot use --service-node-port-range=%s: %w", c.NodePorts, err)
	}
	return c.Network.Validate()
}

// NodePortRange is the first and the last of NodePorts; both are 0 if the cluster says nothing of them.
func (c MinionConfig) NodePortRange() (first, last uint64, err error) {
	if c.NodePorts == "" {
		return 0, 0, nil
	}
	low, high, _ := strings.Cut(c.NodePorts, "-")
	first, lowErr := strconv.ParseUint(low, 10, 16)
	last, highErr := strconv.ParseUint(high, 10, 16)
	if lowErr != nil || highErr != nil || first == 0 || last < first {
		return 0, 0, errors.New("give the first and the last port, such as 30000-30999")
	}
	return first, last, nil
}
