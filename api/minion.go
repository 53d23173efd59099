package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bootstrap is the content of ExecutorInfo.data, as JSON: enough for a minion to find its API server and to prove which node it is.
// Mesos compares an ExecutorInfo as a whole, so nothing that may change belongs here. What may change is in MinionConfig.
type Bootstrap struct {
	// Cluster is the k8sm cluster's name (--cluster-name), which labels all that a minion makes.
	Cluster string `json:"cluster"`
	// Node is the name of the node that the minion runs.
	Node string `json:"node"`
	// APIServer is the URL of a kube-apiserver.
	APIServer string `json:"apiServer"`
	// APIServers are the "host:port" of all that the cluster had at the launch, if the scheduler knew them.
	APIServers []string `json:"apiServers,omitempty"`
	// CA is the PEM of the authority that signed the API server's certificate.
	CA []byte `json:"ca"`
	// Token is a Kubernetes bootstrap token ("id.secret"), valid for a short time and for this node only
	// (https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/).
	Token string `json:"token"`
}

// ParseBootstrap parses a Bootstrap and checks that no field is missing.
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

// MinionConfig is the configuration of all minions of a cluster, in the ConfigMap MinionConfigName as JSON. Empty fields mean the
// minion's own default.
type MinionConfig struct {
	// ClusterDomain is the DNS domain of the cluster, such as "cluster.local".
	ClusterDomain string `json:"clusterDomain,omitempty"`
	// ClusterDNS are the addresses of the cluster's DNS servers; empty while the cluster has none.
	ClusterDNS []string `json:"clusterDNS,omitempty"`
	// ClusterCIDR is the range of pod addresses.
	ClusterCIDR string `json:"clusterCIDR,omitempty"`
	// ServiceCIDR is the range of service addresses.
	ServiceCIDR string `json:"serviceCIDR,omitempty"`
	// Network says how pods on different nodes reach each other.
	Network PodNetwork `json:"network,omitzero"`
	// RootDir is the directory for files that outlive a sandbox; each node has a folder of its own in it.
	RootDir string `json:"rootDir,omitempty"`
	// DockerHost is the Docker Engine's address, such as "unix:///var/run/docker.sock".
	DockerHost string `json:"dockerHost,omitempty"`
	// DockerCertPath is a directory on each node with ca.pem, cert.pem and key.pem for a "tcp://" Docker Engine, as DOCKER_CERT_PATH of
	// the docker command; empty for no TLS.
	DockerCertPath string `json:"dockerCertPath,omitempty"`
	// AllowPlainDocker allows a "tcp://" Docker Engine without TLS at an address that others can reach.
	AllowPlainDocker bool `json:"allowPlainDocker,omitempty"`
	// IdleTimeout is how long a minion without tasks keeps running; zero means forever. Minions of older versions read this key.
	IdleTimeout *metav1.Duration `json:"suicideTimeout,omitempty"`
	// CleanupDelay is how long a node may be without a minion, after one was killed, before its warden cleans up.
	CleanupDelay *metav1.Duration `json:"cleanupDelay,omitempty"`
	// StaticPods is a directory on each node with manifests of static pods
	// (https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/).
	StaticPods string `json:"staticPods,omitempty"`
	// ContainPods runs the pods' containers below the cgroup of the minion's Mesos container.
	ContainPods *bool `json:"containPods,omitempty"`
	// ProxyMode is the mode of kube-proxy.
	ProxyMode ProxyMode `json:"proxyMode,omitempty"`
	// NodePorts is the port range of services of type NodePort, such as "30000-30999". Schedulers read it, too: they assign none of
	// these ports to pods.
	NodePorts string `json:"nodePorts,omitempty"`
	// NetworkPolicy says whether minions enforce network policies; see EnforcesNetworkPolicies.
	NetworkPolicy *bool `json:"networkPolicy,omitempty"`
	// CA is the PEM of the authorities for the API's servers and clients: the one that issues certificates first, and another one while
	// that is replaced; empty for that of the Bootstrap. Minions take over changes of it and of the next two fields while they run.
	CA []byte `json:"ca,omitempty"`
	// KubeletServingCA is the PEM of the authorities that sign kubelets' serving certificates, likewise; empty for that of the API server.
	KubeletServingCA []byte `json:"kubeletServingCA,omitempty"`
	// KubeletServingChain is the PEM of the certificates that a kubelet shows with its own.
	KubeletServingChain []byte `json:"kubeletServingChain,omitempty"`
	// EvictionHard has the kubelet's hard eviction thresholds: a quantity or a percentage per signal
	// (https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#hard-eviction-thresholds).
	EvictionHard map[string]string `json:"evictionHard,omitempty"`
	// SeccompDefault runs pods that name no seccomp profile with the container runtime's default one.
	SeccompDefault *bool `json:"seccompDefault,omitempty"`
	// PodPidsLimit is how many processes and threads a pod may have; -1 means no limit.
	PodPidsLimit *int64 `json:"podPidsLimit,omitempty"`
	// TLSCipherSuites and TLSMinVersion are those of the kubelet's server, in Go's names.
	TLSCipherSuites []string `json:"tlsCipherSuites,omitempty"`
	TLSMinVersion   string   `json:"tlsMinVersion,omitempty"`
	// StatusPort is the port of the minion's metrics; 0 means any free one.
	StatusPort *int `json:"statusPort,omitempty"`
	// Logs says that minions ship logs to the cluster's log stores.
	Logs bool `json:"logs,omitempty"`
	// LogFormat is the format of the logs of minions and their children, one of package logformat's; empty means text.
	LogFormat string `json:"logFormat,omitempty"`
	// RegistryCAs has the PEM of the authorities that sign the certificate of an image registry, by the registry's "host" or "host:port",
	// besides those that the machines trust anyway.
	RegistryCAs map[string][]byte `json:"registryCAs,omitempty"`
	// ImageRewrites has, by registry, from where its images are pulled instead: a registry, and a folder in it, such as
	// "harbor.example/hub" for "docker.io".
	ImageRewrites map[string]string `json:"imageRewrites,omitempty"`
	// CredentialProviders are the programs that give kubelets credentials for registries.
	CredentialProviders CredentialProviders `json:"credentialProviders,omitzero"`
	// Falcon says where metrics go.
	Falcon Falcon `json:"falcon,omitzero"`
	// Tracing says where the kubelets' traces go.
	Tracing Tracing `json:"tracing,omitzero"`
	// KubeletArgs are flags of the kubelet, as NAME=VALUE, that come after the minion's own.
	KubeletArgs []string `json:"kubeletArgs,omitempty"`
	// ProxyConfig has fields of kube-proxy's configuration, in the form of
	// https://kubernetes.io/docs/reference/config-api/kube-proxy-config.v1alpha1/, that replace those of the minion's own.
	ProxyConfig json.RawMessage `json:"proxyConfig,omitempty"`
}

// CredentialProviders are programs on each node that give the kubelet credentials for images
// (https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/).
type CredentialProviders struct {
	// Config is a file on each node, a CredentialProviderConfig, or a directory of such files; empty for none.
	Config string `json:"config,omitempty"`
	// BinDir is the directory of the programs on each node.
	BinDir string `json:"binDir,omitempty"`
}

// Falcon says where minions and the leading scheduler send metrics, by open-falcon's protocols.
type Falcon struct {
	// Target is an agent or transfers, as package falcon parses it; empty for none.
	Target string `json:"target,omitempty"`
	// Step is the time between two values of a metric in seconds.
	Step int `json:"step,omitempty"`
	// Node sends the figures of the machines, too, in place of open-falcon's own agents.
	Node bool `json:"node,omitempty"`
}

// Tracing says where the stock programs send traces, by OTLP over gRPC
// (https://kubernetes.io/docs/concepts/cluster-administration/system-traces/).
type Tracing struct {
	// Endpoint is the "host:port" of a collector; empty for none.
	Endpoint string `json:"endpoint,omitempty"`
	// PerMillion is how many of a million requests are traced, besides those that their callers trace.
	PerMillion int32 `json:"perMillion,omitempty"`
}

// MinionEngineFlag is the flag of `km minion` with which the scheduler passes the cluster's Docker Engine, if it is not at the
// default address: a minion in a Mesos container needs the Engine before it can reach the cluster.
const MinionEngineFlag = "engine"

// MinionEngineCertPathFlag is the flag for that Engine's DockerCertPath, if there is one.
const MinionEngineCertPathFlag = "engine-cert-path"

// ReadMinionConfig parses the data of the ConfigMap MinionConfigName.
func ReadMinionConfig(data map[string]string) (c MinionConfig, err error) {
	if err := json.Unmarshal([]byte(data[MinionConfigKey]), &c); err != nil {
		return c, fmt.Errorf("cannot read %s of ConfigMap %s/%s: %w", MinionConfigKey, MinionConfigNamespace, MinionConfigName, err)
	}
	return c, nil
}

// Settings identifies what a minion takes from the configuration when it starts: a minion with other settings is out of date, as one of
// another version is. Only equal versions of km agree on it.
func (c MinionConfig) Settings() string {
	fields, err := c.fields()
	if err != nil {
		panic(err) // ReadMinionConfig has read each field from JSON
	}
	for _, name := range liveFields {
		delete(fields, name)
	}
	data, err := json.Marshal(fields) // with the names in order
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:6])
}

// liveFields are those that minions don't read, or take over while they run: the authorities, which are replaced in phases.
var liveFields = []string{"nodePorts", "ca", "kubeletServingCA", "kubeletServingChain"}

func (c MinionConfig) fields() (fields map[string]json.RawMessage, err error) {
	data, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return fields, json.Unmarshal(data, &fields)
}

// EnforcesNetworkPolicies reports whether minions enforce network policies. They do unless configured otherwise, or unless a CNI
// plugin runs the pod network: then that enforces them.
func (c MinionConfig) EnforcesNetworkPolicies() bool {
	return (c.NetworkPolicy == nil || *c.NetworkPolicy) && c.Network.Mode != NetworkCNI
}

// ProxyMode is a mode of kube-proxy
// (https://kubernetes.io/docs/reference/networking/virtual-ips/#proxy-modes).
type ProxyMode string

// The supported modes.
const (
	ProxyIPTables ProxyMode = "iptables"
	ProxyNFTables ProxyMode = "nftables"
)

// Defaults of a minion.
const (
	DefaultDockerHost  = "unix:///var/run/docker.sock"
	DefaultProxyMode   = ProxyIPTables
	DefaultIdleTimeout = 20 * time.Minute
	// DefaultCleanupDelay is how long Kubernetes waits before it evicts the pods of a node that is not ready (the default
	// tolerationSeconds of https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-based-evictions).
	// Kubernetes starts counting later, when the node has been silent for 40 s: so evicted pods have been removed by then.
	DefaultCleanupDelay = 5 * time.Minute
	DefaultSeccomp      = true
	// DefaultPodPidsLimit is far more than a usual pod has, and far less than a machine (kernel.pid_max is 32768 or more).
	DefaultPodPidsLimit = 4096
	// DefaultStatusPort is next to those of Kubernetes' own programs.
	DefaultStatusPort = 10268
	// DefaultTracesPerMillion is one request of a hundred.
	DefaultTracesPerMillion = 10000
	// DefaultFalconStep is that of open-falcon's agents.
	DefaultFalconStep   = 60
	DefaultEvictionHard = "memory.available<100Mi,nodefs.available<1Gi,imagefs.available<1Gi"
)

// evictionSignals are the signals of the kubelet of KubernetesVersion.
var evictionSignals = []string{
	"memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree", "pid.available",
}

// ParseEviction parses thresholds in the format of the kubelet's flags: "memory.available<100Mi,nodefs.available<10%". It rejects
// what a kubelet would reject at its start.
func ParseEviction(text string) (map[string]string, error) {
	thresholds := map[string]string{}
	for _, part := range strings.Split(text, ",") {
		signal, value, ok := strings.Cut(strings.TrimSpace(part), "<")
		if !ok {
			return nil, fmt.Errorf("%q is not of the form SIGNAL<VALUE, such as memory.available<100Mi", part)
		}
		if _, twice := thresholds[signal]; twice {
			return nil, fmt.Errorf("%s is set twice", signal)
		}
		thresholds[signal] = value
	}
	return thresholds, checkEviction(thresholds)
}

func checkEviction(thresholds map[string]string) error {
	for signal, value := range thresholds {
		if !slices.Contains(evictionSignals, signal) {
			return fmt.Errorf("unknown signal %q: use one of %s", signal, strings.Join(evictionSignals, ", "))
		}
		if _, err := EvictionThreshold(value, 1); err != nil {
			return fmt.Errorf("%s: %w", signal, err)
		}
	}
	return nil
}

// EvictionThreshold returns the part of the capacity that a threshold reserves, in the kubelet's arithmetic.
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

// Validate returns an error for settings that a minion cannot use. It names the flags of `km apiserver`.
func (c MinionConfig) Validate() error {
	for flag, dir := range map[string]string{"node-root-dir": c.RootDir, "static-pod-path": c.StaticPods, "docker-cert-path": c.DockerCertPath,
		"image-credential-provider-config": c.CredentialProviders.Config, "image-credential-provider-bin-dir": c.CredentialProviders.BinDir} {
		if dir != "" && !path.IsAbs(dir) {
			return fmt.Errorf("cannot use --%s=%s: use an absolute path, because Mesos chooses the working directory of minions", flag, dir)
		}
	}
	if c.IdleTimeout != nil && c.IdleTimeout.Duration < 0 {
		return fmt.Errorf("cannot use --minion-idle-timeout=%s: give a time such as 20m, or 0 for ever", c.IdleTimeout.Duration)
	}
	if c.CleanupDelay != nil && c.CleanupDelay.Duration <= 0 {
		return fmt.Errorf("cannot use --minion-cleanup-delay=%s: give a time such as 5m", c.CleanupDelay.Duration)
	}
	if c.plainDocker() && !c.AllowPlainDocker {
		return fmt.Errorf("cannot use --docker-host=%s without TLS: whoever reaches it is root on the node. Start Docker Engine with --tlsverify and "+
			"give --docker-cert-path=DIRECTORY, or use its unix:// socket; --allow-plain-docker-host allows it nevertheless", c.DockerHost)
	}
	if err := checkEviction(c.EvictionHard); err != nil {
		return fmt.Errorf("cannot use --eviction-hard: %w", err)
	}
	if !slices.Contains([]ProxyMode{"", ProxyIPTables, ProxyNFTables}, c.ProxyMode) {
		return fmt.Errorf("cannot use --proxy-mode=%s: use %s or %s", c.ProxyMode, ProxyIPTables, ProxyNFTables)
	}
	if limit := c.PodPidsLimit; limit != nil && *limit != -1 && *limit < 1 {
		return fmt.Errorf("cannot use --pod-max-pids=%d: give a number above 0, or -1 for no limit", *limit)
	}
	if port := c.StatusPort; port != nil && (*port < 0 || *port > 65535) {
		return fmt.Errorf("cannot use --minion-status-port=%d: give a port, or 0 for any free one", *port)
	}
	for host := range c.RegistryCAs {
		if err := CheckRegistry(host); err != nil {
			return fmt.Errorf("cannot use --registry-ca: %w", err)
		}
	}
	if (c.CredentialProviders.Config == "") != (c.CredentialProviders.BinDir == "") {
		return errors.New("give --image-credential-provider-config and --image-credential-provider-bin-dir, or neither")
	}
	if err := checkImageRewrites(c.ImageRewrites); err != nil {
		return err
	}
	if _, _, err := c.NodePortRange(); err != nil {
		return fmt.Errorf("cannot use --service-node-port-range=%s: %w", c.NodePorts, err)
	}
	return c.Network.Validate()
}

// plainDocker reports whether the Docker Engine is reached without TLS at an address that is not loopback.
func (c MinionConfig) plainDocker() bool {
	address, tcp := strings.CutPrefix(c.DockerHost, "tcp://")
	if !tcp || c.DockerCertPath != "" {
		return false
	}
	host := address
	if i := strings.LastIndexByte(address, ':'); i >= 0 && !strings.HasSuffix(address, "]") {
		host = address[:i]
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host != "localhost" && (err != nil || !ip.IsLoopback())
}

// NodePortRange returns the first and the last port of NodePorts; both are 0 if it is not set.
func (c MinionConfig) NodePortRange() (first, last uint64, err error) {
	if c.NodePorts == "" {
		return 0, 0, nil
	}
	low, high, _ := strings.Cut(c.NodePorts, "-")
	first, lowErr := strconv.ParseUint(low, 10, 16)
	last, highErr := strconv.ParseUint(high, 10, 16)
	if lowErr != nil || highErr != nil || first == 0 || last < first {
		return 0, 0, errors.New("use the form FIRST-LAST, such as 30000-30999")
	}
	return first, last, nil
}
