// Package controlplane runs etcd, kube-apiserver and kube-controller-manager, stock and unmodified, in one process: this is `km
// apiserver`. It knows their flags, the order in which they start and stop, and the objects that every k8sm cluster has (add-ons).
// It has no policy about pods and nodes.
//
// It is one of the few packages that may import k8s.io/kubernetes. The stock programs keep feature gates, metrics and informer
// registries per process, so call Run only once in a process.
//
// Start reading at Run; server and its users in this package are the layers that Run stacks.
package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/approver"
	"github.com/k8sm/k8sm/api/certfile"
	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/falcon"
	"github.com/k8sm/k8sm/api/secretkeys"
	"github.com/k8sm/k8sm/api/snapshot"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/statedir"
)

// Config configures the control plane. Call AddFlags first: the defaults of its flags are not zero values.
type Config struct {
	// StateDir has certificates, kubeconfigs and etcd's data.
	StateDir statedir.Dir

	// BindAddress and SecurePort are the API server's listen address. Port 0 takes any free port.
	BindAddress string
	SecurePort  int
	// AdvertiseAddress is the IP address at which nodes and pods reach the API server; empty means BindAddress.
	AdvertiseAddress string
	// ServingNames are further host names and IP addresses in the API server's certificate.
	ServingNames []string
	// AggregatorRouting makes the API server call webhooks and aggregated API servers at their pods' addresses instead of their
	// services': a machine that is not a node has no services, and that of the metrics servers has no address.
	AggregatorRouting bool

	// Lives are those of new certificates.
	Lives statedir.Lives

	// EtcdServers are the URLs of an existing etcd; empty means the embedded one.
	EtcdServers []string
	// EtcdCAFile, EtcdCertFile and EtcdKeyFile are for an existing etcd that requires TLS.
	EtcdCAFile, EtcdCertFile, EtcdKeyFile string
	// InsecureEtcd allows an existing etcd without TLS.
	InsecureEtcd bool
	// Snapshots says when the cluster is saved to files.
	Snapshots snapshot.Schedule
	// EtcdPort is the port on 127.0.0.1 that the embedded etcd serves. Port 0 takes any free port.
	EtcdPort int
	// EtcdQuota is the size at which the embedded etcd takes no more writes.
	EtcdQuota etcd.Quota

	// Masters is about control planes beside this one.
	Masters Masters

	// ServiceCIDR and ClusterCIDR are the ranges of service and pod addresses: one, or one of each family separated by a comma.
	ServiceCIDR, ClusterCIDR string
	// ServiceExternalIPs are the ranges of addresses that services may have as externalIPs; empty means none.
	ServiceExternalIPs []string
	// NodeMaskIPv4 and NodeMaskIPv6 are the prefix lengths of the nodes' pod CIDRs.
	NodeMaskIPv4, NodeMaskIPv6 int
	// ClusterDomain is the cluster's DNS domain and ClusterDNS its servers, as pods see them. The default server is the tenth
	// address of ServiceCIDR's first range, if nodes can reach this machine.
	ClusterDomain string
	ClusterDNS    []string

	// NodeRootDir and DockerHost are for api.MinionConfig; empty leaves the choice to the minions.
	NodeRootDir, DockerHost string
	// Minions has the other settings of minions that have a flag here: IdleTimeout, CleanupDelay, StatusPort, StaticPods, ContainPods,
	// NetworkPolicy and Network.
	Minions api.MinionConfig
	// RegistryCAs are files with the certificates that minions trust for registries, as HOST=FILE.
	RegistryCAs []string
	// ImageRewrites are for api.MinionConfig, as REGISTRY=TARGET.
	ImageRewrites []string
	// EvictionHard is for the minions, too, in the format of api.ParseEviction.
	EvictionHard string

	// Audit, TLS and OIDC configure the API server's audit log, the servers' TLS, and an issuer of tokens.
	Audit Audit
	TLS   TLS
	OIDC  OIDC
	// EncryptionConfig, AdmissionConfig and AuthenticationConfig are files of the operator's, in the form of
	// https://kubernetes.io/docs/reference/config-api/apiserver-config.v1/; empty means km's own or none.
	EncryptionConfig, AdmissionConfig, AuthenticationConfig string
	// ClusterName is the name of the cluster, as the scheduler has it.
	ClusterName string
	// Metrics says that metrics servers run beside the control planes (contrib/metrics): the API server forwards their APIs.
	Metrics bool
	// Logs says that log stores run beside the control planes (contrib/logs): the API server forwards their API, and minions ship logs.
	Logs bool
	// APIServerArgs, ControllerManagerArgs, KubeletArgs and ProxyArgs are flags of the stock programs, passed on as NAME=VALUE.
	APIServerArgs, ControllerManagerArgs, KubeletArgs, ProxyArgs []string

	// Beside, if set, runs while the API server serves. Its context ends before the control plane stops, which waits for it to
	// return. An error stops the control plane.
	Beside func(ctx context.Context) error
	// Ready, if set, is called once with the API server's URL when it serves and the add-ons exist.
	Ready func(url string)
}

// AddFlags adds the flags of `km apiserver` and sets the defaults. StateDir, ServingNames, ClusterName, Metrics, Logs,
// Beside and Ready have no flag.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.BindAddress, "bind-address", "127.0.0.1", "IP address on which the API server listens")
	fs.IntVar(&c.SecurePort, "secure-port", 6443, "port of the API server (HTTPS); 0 takes any free port")
	fs.StringVar(&c.AdvertiseAddress, "advertise-address", "",
		"IP address at which nodes and pods reach the API server (default: --bind-address)")
	fs.BoolVar(&c.AggregatorRouting, "enable-aggregator-routing", true,
		"connect to webhooks and aggregated API servers at their pods' addresses instead of the service address, which only nodes reach; metrics and logs need it")
	fs.StringSliceVar(&c.EtcdServers, "etcd-servers", nil,
		"URLs of an existing etcd, such as https://10.0.0.5:2379 (default: that of km etcd in --state-dir, else one inside this process)")
	fs.StringVar(&c.EtcdCAFile, "etcd-cafile", "", "with --etcd-servers: CA of etcd's certificate (default: with no certificate flags, those of km etcd in --state-dir)")
	fs.StringVar(&c.EtcdCertFile, "etcd-certfile", "", "with --etcd-servers: client certificate")
	fs.StringVar(&c.EtcdKeyFile, "etcd-keyfile", "", "with --etcd-servers: key of the client certificate")
	fs.BoolVar(&c.InsecureEtcd, "insecure-etcd", false, "allow http:// in --etcd-servers: whoever sees or changes that traffic has the whole cluster")
	fs.IntVar(&c.EtcdPort, "etcd-port", 2379, "port of the embedded etcd on 127.0.0.1; 0 takes any free port")
	c.EtcdQuota = etcd.DefaultQuota
	fs.Var(&c.EtcdQuota, "etcd-quota", "size of the embedded etcd's database at which it takes no more writes; etcd suggests no more than 8Gi")
	c.Masters.addFlags(fs)
	fs.StringVar(&c.ServiceCIDR, "service-cluster-ip-range", "10.96.0.0/16", "CIDR range of service addresses; for dual-stack, IPV4-RANGE,IPV6-RANGE")
	fs.StringVar(&c.ClusterCIDR, "cluster-cidr", "10.244.0.0/16", "CIDR range of pod addresses, divided among the nodes; for dual-stack, IPV4-RANGE,IPV6-RANGE")
	fs.StringSliceVar(&c.ServiceExternalIPs, "service-external-ips", nil,
		"`CIDR,...` of addresses that services may have as externalIPs. Nodes send packets for them to the service, so allow no address of a machine (default: none)")
	fs.IntVar(&c.NodeMaskIPv4, "node-cidr-mask-size-ipv4", 24, "prefix length of each node's IPv4 pod range")
	fs.IntVar(&c.NodeMaskIPv6, "node-cidr-mask-size-ipv6", 64, "prefix length of each node's IPv6 pod range")
	fs.StringVar(&c.ClusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	fs.StringSliceVar(&c.ClusterDNS, "cluster-dns", nil,
		"nameservers of pods. Addresses in --service-cluster-ip-range become those of the service kube-dns; others are your own servers (default: the range's tenth address)")
	fs.StringVar(&c.NodeRootDir, "node-root-dir", "",
		"directory on each node for files that outlive a Mesos sandbox (default: that of km minion)")
	fs.StringVar(&c.DockerHost, "docker-host", "", "address of the Docker Engine on each node (default: that of km minion)")
	fs.StringVar(&c.Minions.DockerCertPath, "docker-cert-path", "",
		"`directory` on each node with ca.pem, cert.pem and key.pem, by which its Docker Engine at a tcp:// address is reached by TLS, as DOCKER_CERT_PATH of docker")
	fs.BoolVar(&c.Minions.AllowPlainDocker, "allow-plain-docker-host", false,
		"allow an unencrypted tcp:// --docker-host that others can reach: whoever does is root on the node")
	c.Lives.AddFlags(fs)
	c.addMinionFlags(fs)
	c.addSecurityFlags(fs)
	c.addPassThroughFlags(fs)
	c.Snapshots.AddFlags(fs)
}

// addSecurityFlags adds the flags by which operators harden a cluster.
func (c *Config) addSecurityFlags(fs *pflag.FlagSet) {
	c.Audit.addFlags(fs)
	c.TLS.AddFlags(fs)
	c.OIDC.addFlags(fs)
	fs.StringVar(&c.AuthenticationConfig, "authentication-config", "",
		"`file` with an AuthenticationConfiguration, whose jwt issuers the API server accepts. Changes are taken over; \"anonymous\" is km's")
	fs.StringVar(&c.AdmissionConfig, "admission-control-config-file", "",
		"`file` with an AdmissionConfiguration: PodSecurity's defaults, EventRateLimit, ImagePolicyWebhook. The plugins that it names are enabled")
	fs.StringVar(&c.EncryptionConfig, "encryption-provider-config", "",
		"`file` with an EncryptionConfiguration. Changes are taken over (default: secrets are encrypted with a key in --state-dir; with --etcd-servers too, unless that etcd had secrets before)")
	c.Minions.SeccompDefault, c.Minions.PodPidsLimit = new(bool), new(int64)
	fs.BoolVar(c.Minions.SeccompDefault, "seccomp-default", api.DefaultSeccomp, "run pods that name no seccomp profile with Docker's default one")
	fs.Int64Var(c.Minions.PodPidsLimit, "pod-max-pids", api.DefaultPodPidsLimit, "how many processes and threads a pod may have; -1 means no limit")
}

// addPassThroughFlags adds the flags by which operators pass flags to the stock programs.
func (c *Config) addPassThroughFlags(fs *pflag.FlagSet) {
	add := func(list *[]string, p program, when string) {
		fs.StringArrayVar(list, p.flag, nil, "flag to pass to "+p.name+", as `NAME=VALUE`; can be repeated. Flags that km manages are refused"+when)
	}
	const atStart = ". A minion reads it when it starts"
	add(&c.APIServerArgs, apiServerProgram(), "")
	add(&c.ControllerManagerArgs, controllerManagerProgram(), "")
	add(&c.KubeletArgs, kubeletProgram(), atStart)
	add(&c.ProxyArgs, proxyProgram(), atStart)
}

// defaultNodePorts is the beginning of Kubernetes' default range. By default, Mesos agents offer the ports from 31000 to 32000
const defaultNodePorts = "30000-30999"

// addMinionFlags adds the minions' settings. Minions have no flags of their own, because the scheduler makes Mesos start them; they
// read these settings at their start.
func (c *Config) addMinionFlags(fs *pflag.FlagSet) {
	c.Minions.IdleTimeout, c.Minions.ContainPods, c.Minions.NetworkPolicy = &metav1.Duration{}, new(bool), new(bool)
	c.Minions.CleanupDelay, c.Minions.StatusPort = &metav1.Duration{}, new(int)
	fs.DurationVar(&c.Minions.IdleTimeout.Duration, "minion-idle-timeout", api.DefaultIdleTimeout,
		"how long a minion stays without a task; then it exits, until the next task brings the node back. 0 means forever")
	fs.DurationVar(&c.Minions.CleanupDelay.Duration, "minion-cleanup-delay", api.DefaultCleanupDelay,
		"after a minion was killed: how long to wait for another one before removing the node's containers, mounts and rules")
	fs.IntVar(c.Minions.StatusPort, "minion-status-port", api.DefaultStatusPort,
		"port of each node on which its minion serves metrics and profiles (HTTPS); another free port if it is in use there, and 0 takes any free one. A minion reads it when it starts")
	fs.StringVar(&c.Minions.StaticPods, "static-pod-path", "",
		"`directory` of static pod manifests on each node")
	fs.BoolVar(c.Minions.ContainPods, "contain-pods", false,
		"run pods inside the cgroup of the minion's Mesos container, so that Mesos' limits apply to them; they then end with the minion. Needs an agent with cgroup isolators, else it has no effect")
	fs.BoolVar(c.Minions.NetworkPolicy, "network-policy", true, "enforce network policies on the nodes, with nftables")
	fs.StringVar((*string)(&c.Minions.ProxyMode), "proxy-mode", string(api.DefaultProxyMode), "mode of kube-proxy: iptables or nftables")
	fs.StringVar(&c.Minions.NodePorts, "service-node-port-range", defaultNodePorts,
		"ports of NodePort services, FIRST-LAST. Pods never get them as host ports. The default avoids the ports that Mesos agents offer by default, 31000-32000")
	network := &c.Minions.Network
	fs.StringVar((*string)(&network.Mode), "network", string(api.DefaultNetworkMode), "how pods on different nodes reach each other: auto (routes to nodes on the same link, vxlan to the others), routes (only "+
		"nodes on the same link), vxlan (tunnels), none (your routers forward the pods' packets) or cni (a CNI plugin makes the whole pod network)")
	fs.IntVar(&network.VXLANVNI, "vxlan-vni", api.DefaultVXLANVNI, "VXLAN network identifier; set another one if the machines use this one already")
	fs.IntVar(&network.VXLANPort, "vxlan-port", api.DefaultVXLANPort, "UDP port for VXLAN between nodes")
	fs.StringVar(&network.CNIConfDir, "cni-conf-dir", api.DefaultCNIConfDir, "with --network=cni: `directory` of CNI configurations on each node; the first one by file name is used")
	fs.StringVar(&network.CNIBinDir, "cni-bin-dir", api.DefaultCNIBinDir, "with --network=cni: `directory` of CNI plugins on each node")
	addTracingFlags(fs, &c.Minions.Tracing)
	fs.StringArrayVar(&c.RegistryCAs, "registry-ca", nil, "make Docker Engine on the nodes trust the certificates in a file for a registry, as `HOST[:PORT]=FILE`; can be repeated. "+
		"The file is read when the control plane starts, and by minions when they start")
	fs.StringArrayVar(&c.ImageRewrites, "image-rewrite", nil, "pull the images of a registry from another one, as `REGISTRY=HOST[:PORT][/FOLDER]`, such as docker.io=harbor.example/hub; can be repeated. "+
		"Images keep their names. If the other registry fails, so does the pull. A minion reads it when it starts")
	providers := &c.Minions.CredentialProviders
	fs.StringVar(&providers.Config, "image-credential-provider-config", "",
		"`file` or directory on each node that configures programs which give the kubelet credentials for images. A minion reads it when it starts")
	fs.StringVar(&providers.BinDir, "image-credential-provider-bin-dir", "", "with --image-credential-provider-config: `directory` of the programs on each node")
	falcon := &c.Minions.Falcon
	fs.StringVar(&falcon.Target, "falcon", "", "`target` of metrics in open-falcon's protocols: an agent, http://127.0.0.1:1988/v1/push, or transfers, "+
		"tcp://HOST:8433,HOST:8433. Minions and the scheduler read it when they start (default: none)")
	fs.IntVar(&falcon.Step, "falcon-step", api.DefaultFalconStep, "with --falcon: `seconds` between two values of a metric; less than 30 become 30")
	fs.BoolVar(&falcon.Node, "falcon-node", false, "with --falcon: send the machines' own metrics, too. For nodes without an agent of open-falcon: with one, each value comes twice")
	fs.StringVar(&c.EvictionHard, "eviction-hard", api.DefaultEvictionHard,
		"hard eviction thresholds of the kubelets, as SIGNAL<VALUE,...; signals not listed have none")
}

// Run starts the control plane and blocks until ctx is done or a part of it fails. When it returns, everything that it started has
// stopped, or waits for an etcd elsewhere that does not answer. If a port or the state directory is in use, it fails before it starts anything.
func Run(ctx context.Context, c Config) (err error) {
	if err := c.Validate(); err != nil {
		return err
	}
	if c, err = c.absolute(); err != nil {
		return err
	}
	unlock, err := c.StateDir.Lock("control-plane")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	p, err := reserve(c)
	if err != nil {
		return err
	}
	defer p.release()
	if err := c.joinOthers(ctx); err != nil {
		return err
	}
	if err := c.checkOwner(ctx); err != nil {
		return err
	}
	spec := c.pkiSpec(p)
	if err := c.StateDir.Prepare(spec(time.Now())); err != nil {
		return err
	}
	if err := c.beginEncrypted(ctx); err != nil {
		return err
	}
	if err := errors.Join(c.prepareEncryption(), c.writeAuditPolicy(), c.writeTracing()); err != nil {
		return err
	}
	legacyregistry.RawMustRegister(certfile.Metrics(c.StateDir.CertFiles()), buildInfo()) // among the API server's
	renewing := start(ctx, func(ctx context.Context) error { return c.StateDir.KeepRenewed(ctx, spec) })
	defer func() { renewing.stop(); <-renewing.ended }()
	err = c.runEtcd(ctx, p)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // stopped while it was still starting
	}
	return err
}

// runEtcd is the lowest layer; the others stop before it.
func (c Config) runEtcd(ctx context.Context, p *ports) (err error) {
	if !c.embeds() {
		return c.runOnEtcd(ctx, p)
	}
	unlock, err := c.StateDir.Lock("etcd") // km etcd runs on the same data
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	embedded, err := c.startEtcd(ctx, p.etcd)
	if err != nil {
		return err
	}
	access := embeddedEtcd(c.StateDir, p.etcd)
	if err := errors.Join(authorize(ctx, access, c.ClusterName), c.claim(ctx, access), c.StateDir.WriteEtcd(access)); err != nil {
		embedded.Close()
		return err
	}
	access.CertFile, access.KeyFile = c.StateDir.Pair(statedir.APIServerEtcdClient)
	return whileRunning(ctx, start(ctx, embedded.run(embeddedEtcd(c.StateDir, p.etcd))), func(ctx context.Context) error {
		return c.runAPIServer(ctx, p, access)
	})
}

// runOnEtcd uses an etcd that is there already.
func (c Config) runOnEtcd(ctx context.Context, p *ports) error {
	existing := c.existingEtcd()
	if existing.Managed {
		if err := authorize(ctx, existing, c.ClusterName); err != nil {
			return err
		}
	}
	if err := c.claim(ctx, existing); err != nil {
		return err
	}
	leave, err := c.agree(ctx, existing)
	if err != nil {
		return err
	}
	defer leave()
	if len(c.EtcdServers) > 0 { // else km etcd records it
		if err := c.StateDir.WriteEtcd(existing); err != nil {
			return err
		}
	}
	if existing.Managed {
		existing.CertFile, existing.KeyFile = c.StateDir.Pair(statedir.APIServerEtcdClient)
	}
	return c.runAPIServer(ctx, p, existing)
}

// runAPIServer runs the API server and, once it is ready, its clients.
func (c Config) runAPIServer(ctx context.Context, p *ports, etcd statedir.Etcd) error {
	admin, err := c.StateDir.Admin()
	if err != nil {
		return err
	}
	admin.Host = c.serverURL(p)
	admin.QPS = -1 // no limit: the add-ons are many, and everything waits for them
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		return fmt.Errorf("cannot create a client for the API server: %w", err)
	}
	objects, err := dynamic.NewForConfig(admin)
	if err != nil {
		return fmt.Errorf("cannot create a client for the API server: %w", err)
	}
	if err := c.startWithTokens(ctx, etcd); err != nil {
		return err
	}
	run, err := c.apiServer(p.api, etcd)
	if err != nil {
		return err
	}
	keys, done, err := c.keysOf(ctx, etcd, strings.TrimPrefix(c.serverURL(p), "https://"))
	if err != nil {
		return err
	}
	defer done()
	s := start(ctx, run)
	if !c.embeds() {
		// A hook of kube-apiserver waits for its lease in etcd without a limit (PeerEndpointLeaseController.Stop), and requests wait a minute.
		s.patience = stopPatience
		defer func() { p.inUse = s.tellAbandoned() }()
	}
	return whileRunning(ctx, s, func(ctx context.Context) error {
		// kube-apiserver exits the whole process if it is stopped before it is ready.
		patient, cancel := s.outlive(ctx, startGrace)
		defer cancel()
		admin := clients{typed: client, objects: objects, etcd: etcd, keys: keys, url: c.serverURL(p)}
		early := start(ctx, func(ctx context.Context) error { return c.applyEarly(ctx, admin) })
		defer func() { early.stop(); <-early.ended }()
		if err := waitReady(patient, client); err != nil || ctx.Err() != nil {
			return err
		}
		return c.runClients(ctx, admin, early)
	})
}

// startGrace is how long an API server that must stop may take to become ready first.
const startGrace = 20 * time.Second

// stopPatience is how long the API server may take to stop while its etcd is elsewhere and may not answer. systemd leaves 90 s to all.
const stopPatience = 30 * time.Second

// tellAbandoned says so if the API server has not stopped, and reports that.
func (s *server) tellAbandoned() bool {
	select {
	case <-s.ended:
		return false
	default:
		logrus.Warnf("kube-apiserver has not stopped %s after it was told to, as it does when etcd does not answer: ending without it", s.patience)
		return true
	}
}

// clients have the administrator's identity.
type clients struct {
	typed   kubernetes.Interface
	objects dynamic.Interface
	etcd    statedir.Etcd
	keys    *secretkeys.Server // see keysOf
	url     string             // of the API server
}

// runClients runs the clients of a ready API server. early applies add-ons.
func (c Config) runClients(ctx context.Context, admin clients, early *server) error {
	manage, err := c.controllerManager()
	if err != nil {
		return err
	}
	ranges, err := c.ranges()
	if err != nil {
		return err
	}
	approve := func(ctx context.Context) error {
		return approver.Run(ctx, admin.typed, slices.Concat(ranges.services, ranges.pods))
	}
	return whileRunning(ctx, start(ctx, manage), func(ctx context.Context) error {
		return whileRunning(ctx, start(ctx, approve), func(ctx context.Context) error {
			select {
			case <-early.ended:
			case <-ctx.Done():
				return ctx.Err()
			}
			if early.err != nil {
				return early.err
			}
			return c.runAddOns(ctx, admin)
		})
	})
}

// applyEarly applies the add-ons that need no address of a service, as soon as the API server takes them. kube-apiserver waits for a second
// before it makes its own roles, and is not ready until they are there.
func (c Config) applyEarly(ctx context.Context, admin clients) error {
	addOns, err := c.addOns()
	if err != nil {
		return err
	}
	if err := waitReady(ctx, admin.typed, ownObjects...); err != nil {
		return err
	}
	return applyAll(ctx, admin.objects, slices.DeleteFunc(addOns, isService))
}

// runAddOns applies the add-ons that applyEarly leaves out, and runs what depends on them all until ctx ends.
func (c Config) runAddOns(ctx context.Context, admin clients) error {
	addOns, err := c.addOns()
	if err != nil {
		return err
	}
	apis, err := c.aggregatedAPIs()
	if err != nil {
		return err
	}
	if err := applyServices(ctx, admin.objects, addOns, apis); err != nil {
		return err
	}
	there, not := c.aggregated()
	for _, servers := range not {
		if err := servers.forget(ctx, admin.objects); err != nil {
			return err
		}
	}
	logrus.WithField("url", admin.url).Info("the control plane is ready")
	if c.Ready != nil {
		c.Ready(admin.url)
	}
	var background sync.WaitGroup
	defer background.Wait()
	background.Go(func() { c.saveSnapshots(ctx) })
	if admin.keys != nil {
		background.Go(func() { admin.keys.Follow(ctx) })
	}
	background.Go(func() { c.watchAuthentication(ctx, authenticationPoll) })
	background.Go(func() { tidyTokens(ctx, admin.typed) })
	background.Go(func() { c.followAuthorities(ctx, admin) })
	background.Go(func() { c.reportAuthorities(ctx, admin) })
	background.Go(func() {
		if err := recordCommits(ctx, admin); err != nil {
			logrus.WithError(err).Error("cannot record the addresses of committed pods")
		}
	})
	for _, servers := range there {
		background.Go(func() {
			if err := servers.offer(ctx, admin, c.StateDir.CA()); err != nil && ctx.Err() == nil {
				logrus.WithError(err).Errorf("cannot offer the APIs of the %s", servers.what)
			}
		})
	}
	background.Go(func() {
		if err := c.encryptOldSecrets(ctx); err != nil && ctx.Err() == nil {
			logrus.WithError(err).Error("cannot encrypt the secrets from before this cluster had a key: the next start tries again")
		}
	})
	if c.Beside != nil {
		if err := c.Beside(ctx); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// Validate finds errors that would otherwise show only after parts have started. Run calls it first. It sets the feature gates of this
// process, on which depends what the stock programs find valid.
func (c Config) Validate() error {
	if c.StateDir == "" {
		return errors.New("cannot run without a state directory: set --state-dir")
	}
	for _, address := range [][2]string{{"--bind-address", c.BindAddress}, {"--advertise-address", c.Advertised()}} {
		if net.ParseIP(address[1]) == nil {
			return fmt.Errorf("cannot use %s=%s: not an IP address", address[0], address[1])
		}
	}
	if net.ParseIP(c.Advertised()).IsUnspecified() {
		return fmt.Errorf("cannot advertise %s: set --advertise-address, too, with --bind-address=%s", c.Advertised(), c.BindAddress)
	}
	if _, err := c.ranges(); err != nil {
		return err
	}
	if err := c.validateDNS(); err != nil {
		return err
	}
	if err := c.validateExternalIPs(); err != nil {
		return err
	}
	minions, err := c.minionConfig()
	if err != nil {
		return err
	}
	if err := minions.Validate(); err != nil {
		return err
	}
	if c.Metrics && !c.AggregatorRouting {
		return errors.New("cannot use --enable-aggregator-routing=false with --metrics: the API server would not reach the metrics")
	}
	if c.Logs && !c.AggregatorRouting {
		return errors.New("cannot use --enable-aggregator-routing=false with --logs: the API server would not reach the logs")
	}
	if len(c.EtcdServers) == 0 && c.EtcdCAFile+c.EtcdCertFile+c.EtcdKeyFile != "" {
		return errors.New("cannot use --etcd-cafile, --etcd-certfile or --etcd-keyfile without --etcd-servers")
	}
	if err := state.CheckEndpoints(c.EtcdServers, c.InsecureEtcd); err != nil {
		return err
	}
	for _, check := range []func() error{c.Lives.Validate, c.Masters.check, c.checkFalcon, c.Snapshots.Validate, c.checkTracing, c.TLS.Validate, c.checkQuota, c.Audit.check, c.checkEncryption, c.checkAPIServer} {
		if err := check(); err != nil {
			return err
		}
	}
	return c.checkControllerManager()
}

func (c Config) checkQuota() error { return c.EtcdQuota.Validate("etcd-quota") }

func (c Config) checkFalcon() error {
	flags := c.Minions.Falcon
	if flags.Step < 1 {
		return fmt.Errorf("cannot use --falcon-step=%d: give seconds, such as %d", flags.Step, api.DefaultFalconStep)
	}
	if flags.Target == "" && flags.Node {
		return errors.New("cannot use --falcon-node without --falcon, which says where the metrics go")
	}
	if flags.Target == "" {
		return nil
	}
	if _, err := falcon.ParseTarget(flags.Target); err != nil {
		return fmt.Errorf("cannot use --falcon: %w", err)
	}
	return nil
}

// absolute makes the paths absolute, for programs with another working directory: some are recorded in the state directory.
func (c Config) absolute() (Config, error) {
	dir := string(c.StateDir)
	for _, path := range []*string{&dir, &c.EtcdCAFile, &c.EtcdCertFile, &c.EtcdKeyFile,
		&c.Snapshots.Dir, &c.Audit.PolicyFile, &c.Masters.TokenFile, &c.EncryptionConfig, &c.AdmissionConfig, &c.AuthenticationConfig, &c.OIDC.CAFile} {
		if *path == "" {
			continue
		}
		full, err := filepath.Abs(*path)
		if err != nil {
			return c, fmt.Errorf("cannot find %s: %w", *path, err)
		}
		*path = full
	}
	c.StateDir = statedir.Dir(dir)
	return c, nil
}

// Advertised is the IP address at which nodes and pods reach the API server.
func (c Config) Advertised() string {
	if c.AdvertiseAddress != "" {
		return c.AdvertiseAddress
	}
	return c.BindAddress
}

func (c Config) serverURL(p *ports) string {
	port := p.api.Addr().(*net.TCPAddr).Port
	return "https://" + net.JoinHostPort(c.Advertised(), strconv.Itoa(port))
}
