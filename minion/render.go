package minion

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	tracingv1 "k8s.io/component-base/tracing/api/v1"
	proxyconfig "k8s.io/kube-proxy/config/v1alpha1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/minion/network"
)

const loopback = "127.0.0.1"

// logFiles and logFileSize bound each container's log. They are the kubelet's defaults; Docker Engine is told to keep as much.
const (
	logFiles    = 5
	logFileSize = 10 << 20
)

// settings is the input for the configurations of the stock programs.
type settings struct {
	files      layout
	node       string
	agent      api.AgentID
	cluster    api.MinionConfig
	addresses  []netip.Addr      // of the node, one for each IP family of its pods, primary first
	reserved   map[string]string // see capacity.reserve
	cgroup     string            // see podCgroup
	resolvConf string

	kubeletPort, kubeletHealthPort, proxyHealthPort, proxyMetricsPort int
}

// choosePorts finds free ports for all listeners. The kubelet's own, the only one not on loopback, gets the wanted port if it is
// free.
func (s *settings) choosePorts(wanted int) error {
	for _, choice := range []struct {
		port    *int
		address string
		wanted  int
	}{
		{&s.kubeletPort, s.address(), wanted},
		{&s.kubeletHealthPort, loopback, 0},
		{&s.proxyHealthPort, loopback, 0},
		{&s.proxyMetricsPort, loopback, 0},
	} {
		listener, err := listenFree(choice.address, choice.wanted)
		if err != nil {
			return err
		}
		defer listener.Close() // not before the end, so that the ports differ
		*choice.port = listener.Addr().(*net.TCPAddr).Port
	}
	return nil
}

// statusAgain is how often a kubelet writes a node status in which nothing has changed. What says that the node lives is its lease; what
// changes is written within ten seconds. Each write is an event for the minions of all other nodes.
const statusAgain = 30 * time.Minute

// kubelet renders the kubelet's configuration
// (https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/).
func (s settings) kubelet() ([]byte, error) {
	cfg := kubeletconfig.KubeletConfiguration{
		TypeMeta:                 metav1.TypeMeta{APIVersion: "kubelet.config.k8s.io/v1beta1", Kind: "KubeletConfiguration"},
		Address:                  s.address(),
		Port:                     int32(s.kubeletPort),
		HealthzBindAddress:       loopback,
		HealthzPort:              ptr(int32(s.kubeletHealthPort)),
		ProviderID:               api.ProviderID(s.agent),
		ContainerRuntimeEndpoint: "unix://" + s.files.socket(),
		StaticPodPath:            s.cluster.StaticPods,
		PodLogsDir:               s.files.podLogs(),
		VolumePluginDir:          s.files.volumePlugins(),
		ResolverConfig:           &s.resolvConf,
		ClusterDomain:            s.cluster.ClusterDomain,
		ClusterDNS:               s.cluster.ClusterDNS,
		KubeReserved:             s.reserved,
		ContainerLogMaxSize:      resource.NewQuantity(logFileSize, resource.BinarySI).String(),
		ContainerLogMaxFiles:     ptr(int32(logFiles)),
		FailSwapOn:               ptr(false), // a Mesos agent's machine may have swap
		MakeIPTablesUtilChains:   ptr(false), // they guard 127.0.0.0/8, which kube-proxy does not open here, and would be left behind

		NodeStatusReportFrequency: metav1.Duration{Duration: statusAgain},
	}
	if t := s.cluster.Tracing; t.Endpoint != "" {
		cfg.Tracing = &tracingv1.TracingConfiguration{Endpoint: &t.Endpoint, SamplingRatePerMillion: &t.PerMillion}
	}
	cfg.Logging.Format = s.cluster.LogFormat
	s.security(&cfg)
	s.resources(&cfg)
	return render("kubelet", cfg)
}

// security lets the API server authenticate and authorize the kubelet's callers. The cluster's CA signs the kubelet's client
// certificates, and a CA for nothing else its serving certificates.
func (s settings) security(cfg *kubeletconfig.KubeletConfiguration) {
	cfg.RotateCertificates = true
	cfg.ServerTLSBootstrap = true
	cfg.Authentication = kubeletconfig.KubeletAuthentication{
		X509:      kubeletconfig.KubeletX509Authentication{ClientCAFile: s.files.ca()},
		Webhook:   kubeletconfig.KubeletWebhookAuthentication{Enabled: ptr(true)},
		Anonymous: kubeletconfig.KubeletAnonymousAuthentication{Enabled: ptr(false)},
	}
	cfg.Authorization = kubeletconfig.KubeletAuthorization{Mode: kubeletconfig.KubeletAuthorizationModeWebhook}
	cfg.TLSCipherSuites, cfg.TLSMinVersion = s.cluster.TLSCipherSuites, s.cluster.TLSMinVersion
	if cfg.TLSMinVersion == "" { // an older control plane
		cfg.TLSCipherSuites = api.CipherSuites()
	}
	cfg.SeccompDefault = cmp.Or(s.cluster.SeccompDefault, ptr(api.DefaultSeccomp))
	cfg.PodPidsLimit = cmp.Or(s.cluster.PodPidsLimit, ptr(int64(api.DefaultPodPidsLimit)))
}

// resources keeps the kubelet to a cgroup of its own (cgroup v1, too), because the machine belongs to Mesos and other frameworks. A
// disk that others fill is no reason to remove images: they go only when eviction must free space, and only those that the node
// pulled.
func (s settings) resources(cfg *kubeletconfig.KubeletConfiguration) {
	cfg.FailCgroupV1 = ptr(false)
	cfg.CgroupsPerQOS, cfg.CgroupRoot = ptr(true), s.cgroup
	cfg.EnforceNodeAllocatable = []string{"none"}
	cfg.CgroupDriver = "cgroupfs"
	cfg.ImageGCHighThresholdPercent = ptr(int32(100))
	cfg.EvictionHard = s.cluster.EvictionHard
}

// proxy renders kube-proxy's configuration
// (https://kubernetes.io/docs/reference/config-api/kube-proxy-config.v1alpha1/).
func (s settings) proxy() ([]byte, error) {
	untouched := &metav1.Duration{}
	cfg := proxyconfig.KubeProxyConfiguration{
		TypeMeta:           metav1.TypeMeta{APIVersion: "kubeproxy.config.k8s.io/v1alpha1", Kind: "KubeProxyConfiguration"},
		HostnameOverride:   s.node,
		Mode:               proxyconfig.ProxyMode(cmp.Or(s.cluster.ProxyMode, api.DefaultProxyMode)),
		ClusterCIDR:        s.cluster.ClusterCIDR,
		HealthzBindAddress: net.JoinHostPort(loopback, strconv.Itoa(s.proxyHealthPort)),
		MetricsBindAddress: net.JoinHostPort(loopback, strconv.Itoa(s.proxyMetricsPort)),
		// Node ports on loopback would open 127.0.0.0/8 to pods (sysctl route_localnet), which would need a firewall.
		NodePortAddresses: s.nodePorts(),
		IPTables:          proxyconfig.KubeProxyIPTablesConfiguration{LocalhostNodePorts: ptr(false)},
		// Zero leaves the machine's conntrack settings alone.
		Conntrack: proxyconfig.KubeProxyConntrackConfiguration{
			MaxPerCore: ptr(int32(0)), Min: ptr(int32(0)),
			TCPEstablishedTimeout: untouched, TCPCloseWaitTimeout: untouched,
		},
		ConfigSyncPeriod: metav1.Duration{Duration: 15 * time.Minute},
	}
	cfg.ClientConnection.Kubeconfig = s.files.kubeconfig()
	cfg.Logging.Format = s.cluster.LogFormat
	switch {
	case s.cluster.Network.Mode != api.NetworkCNI:
		// Detect pods by their devices: addresses from pools are outside ClusterCIDR.
		cfg.DetectLocalMode, cfg.DetectLocal.InterfaceNamePrefix = "InterfaceNamePrefix", network.DevicePrefix
	case s.cluster.ClusterCIDR == "":
		cfg.DetectLocalMode = "NodeCIDR"
	}
	if len(s.cluster.ProxyConfig) > 0 {
		if err := json.Unmarshal(s.cluster.ProxyConfig, &cfg); err != nil {
			return nil, fmt.Errorf("cannot use the cluster's settings of kube-proxy: %w", err)
		}
	}
	return render("kube-proxy", cfg)
}

// address returns the address on which the kubelet listens.
func (s settings) address() string { return s.addresses[0].String() }

// nodeIPs returns all addresses in the form of the kubelet's --node-ip.
func (s settings) nodeIPs() string {
	var list []string
	for _, address := range s.addresses {
		list = append(list, address.String())
	}
	return strings.Join(list, ",")
}

// nodePorts returns the addresses that serve node ports, as prefixes.
func (s settings) nodePorts() (list []string) {
	for _, address := range s.addresses {
		list = append(list, netip.PrefixFrom(address, address.BitLen()).String())
	}
	return list
}

func render(program string, cfg any) ([]byte, error) {
	data, err := yaml.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot render the configuration of %s: %w", program, err)
	}
	return data, nil
}

// write renders both configurations into their files.
func (s settings) write() error {
	for path, content := range map[string]func() ([]byte, error){
		s.files.kubeletConfig(): s.kubelet,
		s.files.proxyConfig():   s.proxy,
	} {
		data, err := content()
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return fmt.Errorf("cannot write a configuration: %w", err)
		}
	}
	return nil
}

// kubeletArgs returns the arguments of `km kubelet`, for settings that its configuration file does not have, and for those that the
// operator passes: kubelets prefer their arguments to their file.
func (s settings) kubeletArgs() []string {
	args := []string{
		"kubelet",
		"--config=" + s.files.kubeletConfig(),
		"--root-dir=" + s.files.kubelet(),
		"--cert-dir=" + s.files.pki(),
		"--kubeconfig=" + s.files.kubeconfig(),
		"--bootstrap-kubeconfig=" + s.files.bootstrapKubeconfig(),
		"--hostname-override=" + s.node,
		"--node-ip=" + s.nodeIPs(),
	}
	if p := s.cluster.CredentialProviders; p.Config != "" {
		args = append(args, "--image-credential-provider-config="+p.Config, "--image-credential-provider-bin-dir="+p.BinDir)
	}
	for _, passed := range s.cluster.KubeletArgs {
		args = append(args, "--"+passed)
	}
	return args
}

func (s settings) proxyArgs() []string { return []string{"proxy", "--config=" + s.files.proxyConfig()} }

// resolvConf returns the machine's resolv.conf for pods. With systemd-resolved, /etc/resolv.conf names a server that pods cannot
// reach. It returns "" if there is none.
func resolvConf() string {
	for _, path := range []string{"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

func ptr[T any](value T) *T { return &value }
