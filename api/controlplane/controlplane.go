// Package controlplane runs etcd, kube-apiserver and kube-controller-manager, stock and unmodified, in this one process:
// what `km apiserver` is. It knows their flags, in which order they start and stop, and which objects every k8sm cluster
// has (add-ons). Policy about pods and nodes is not here.
//
// It is one of the few packages that may import k8s.io/kubernetes. The stock programs keep feature gates, metrics and
// registries of informers per process, so Run may be called once in a process.
//
// Start reading at Run; server and its users in this package are the layers that Run stacks.
package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/approver"
	"github.com/k8sm/k8sm/api/statedir"
)

// Config is how the control plane is to run. The zero value of a field that AddFlags knows is not its default: call
// AddFlags first.
type Config struct {
	// StateDir is where certificates, kubeconfigs and etcd's data are kept.
	StateDir statedir.Dir

	// BindAddress and SecurePort are where the API server listens. Port 0 takes any free port.
	BindAddress string
	SecurePort  int
	// AdvertiseAddress is the IP address at which nodes and pods reach the API server; empty means BindAddress.
	AdvertiseAddress string
	// AggregatorRouting has the API server call webhooks and aggregated API servers at their pods' addresses, and not at their
	// services': a machine that is no node knows no services.
	AggregatorRouting bool

	// EtcdServers are the URLs of an existing etcd; empty means the embedded one.
	EtcdServers []string
	// EtcdCAFile, EtcdCertFile and EtcdKeyFile are for an existing etcd that asks for TLS.
	EtcdCAFile, EtcdCertFile, EtcdKeyFile string
	// EtcdPort is the port on 127.0.0.1 that the embedded etcd serves. Port 0 takes any free port.
	EtcdPort int

	// ServiceCIDR and ClusterCIDR are the ranges that service and pod addresses come from: one of a family, or two, with a
	// comma between them.
	ServiceCIDR, ClusterCIDR string
	// NodeMaskIPv4 and NodeMaskIPv6 are the lengths of the prefixes of the ranges that each node gets of ClusterCIDR.
	NodeMaskIPv4, NodeMaskIPv6 int
	// ClusterDomain is the cluster's DNS domain and ClusterDNS its servers, as pods are told; none is the tenth address of
	// ServiceCIDR's first range, if nodes can reach this machine.
	ClusterDomain string
	ClusterDNS    []string

	// NodeRootDir and DockerHost are for api.MinionConfig; empty leaves the choice to the minions.
	NodeRootDir, DockerHost string
	// Minions has the other settings of minions that have a flag here: IdleTimeout, CleanupDelay, StaticPods, ContainPods and
	// NetworkPolicy and Network.
	Minions api.MinionConfig
	// EvictionHard is for the minions too, as api.ParseEviction reads it.
	EvictionHard string

	// Beside, if set, runs while the API server serves and has returned before anything of the control plane is stopped. Its
	// context ends when that is to happen; an error ends the control plane.
	Beside func(ctx context.Context) error
	// Ready, if set, is called once with the API server's URL when it serves and the add-ons are in place.
	Ready func(url string)
}

// AddFlags adds the flags of `km apiserver` and sets the defaults. StateDir, Beside and Ready have no flag here.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.BindAddress, "bind-address", "127.0.0.1", "IP address on which the API server listens")
	fs.IntVar(&c.SecurePort, "secure-port", 6443, "port of the API server (HTTPS); 0 takes any free port")
	fs.StringVar(&c.AdvertiseAddress, "advertise-address", "",
		"IP address at which nodes and pods reach the API server (default: --bind-address)")
	fs.BoolVar(&c.AggregatorRouting, "enable-aggregator-routing", false,
		"call webhooks and aggregated API servers at the addresses of their pods: for a machine that is no node, but has routes to pods")
	fs.StringSliceVar(&c.EtcdServers, "etcd-servers", nil,
		"URLs of an existing etcd, such as https://10.0.0.5:2379; without it an etcd runs inside this process")
	fs.StringVar(&c.EtcdCAFile, "etcd-cafile", "", "with --etcd-servers: authority of etcd's certificate")
	fs.StringVar(&c.EtcdCertFile, "etcd-certfile", "", "with --etcd-servers: client certificate")
	fs.StringVar(&c.EtcdKeyFile, "etcd-keyfile", "", "with --etcd-servers: key of the client certificate")
	fs.IntVar(&c.EtcdPort, "etcd-port", 2379, "port of the embedded etcd on 127.0.0.1; 0 takes any free port")
	fs.StringVar(&c.ServiceCIDR, "service-cluster-ip-range", "10.96.0.0/16", "range that service addresses come from; or an IPv4 and an IPv6 one, RANGE,RANGE")
	fs.StringVar(&c.ClusterCIDR, "cluster-cidr", "10.244.0.0/16", "range that pod addresses come from, of which each node gets a part; or an IPv4 and an IPv6 one, RANGE,RANGE")
	fs.IntVar(&c.NodeMaskIPv4, "node-cidr-mask-size-ipv4", 24, "prefix length of the part of --cluster-cidr that a node gets, of the IPv4 range")
	fs.IntVar(&c.NodeMaskIPv6, "node-cidr-mask-size-ipv6", 64, "prefix length of the part of --cluster-cidr that a node gets, of the IPv6 range")
	fs.StringVar(&c.ClusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	fs.StringSliceVar(&c.ClusterDNS, "cluster-dns", nil,
		"addresses of the cluster's DNS, as pods are told: of the service kube-dns if they are in the range of services, else of servers of yours (default: the range's tenth address)")
	fs.StringVar(&c.NodeRootDir, "node-root-dir", "",
		"directory on each node for what outlives a Mesos sandbox (default: the minion's own)")
	fs.StringVar(&c.DockerHost, "docker-host", "", "Docker Engine of each node (default: the minion's own)")
	c.addMinionFlags(fs)
}

// defaultNodePorts is the beginning of what is usual in Kubernetes: by default, Mesos agents offer the ports from 31000 to 32000
// (https://mesos.apache.org/documentation/latest/attributes-resources/).
const defaultNodePorts = "30000-30999"

// addMinionFlags adds what the minions are told: nobody can give them flags, because the scheduler has Mesos start them. They
// read it when they start.
func (c *Config) addMinionFlags(fs *pflag.FlagSet) {
	c.Minions.IdleTimeout, c.Minions.ContainPods, c.Minions.NetworkPolicy = &metav1.Duration{}, new(bool), new(bool)
	c.Minions.CleanupDelay = &metav1.Duration{}
	fs.DurationVar(&c.Minions.IdleTimeout.Duration, "minion-idle-timeout", api.DefaultIdleTimeout,
		"time after which a minion without a task leaves its machine; the next task brings the node back. 0 means never")
	fs.DurationVar(&c.Minions.CleanupDelay.Duration, "minion-cleanup-delay", api.DefaultCleanupDelay,
		"how long a node may be without a minion after one was killed before its containers and all else are removed from the machine")
	fs.StringVar(&c.Minions.StaticPods, "static-pod-path", "",
		"`directory` on each node of manifests of pods that its kubelet runs besides the cluster's")
	fs.BoolVar(c.Minions.ContainPods, "contain-pods", false,
		"have pods' containers below the cgroup of the minion's Mesos container, where the agent has cgroup isolators: Mesos's limits hold for them, and they end with the minion")
	fs.BoolVar(c.Minions.NetworkPolicy, "network-policy", true, "enforce network policies on the nodes, by nftables")
	fs.StringVar((*string)(&c.Minions.ProxyMode), "proxy-mode", string(api.DefaultProxyMode), "by what kube-proxies lead packets to services: iptables or nftables")
	fs.StringVar(&c.Minions.NodePorts, "service-node-port-range", defaultNodePorts,
		"ports of nodes that are for services, FIRST-LAST; the default leaves out those that Mesos agents offer by theirs, and those that agents offer in it are given to no pod")
	network := &c.Minions.Network
	fs.StringVar((*string)(&network.Mode), "network", string(api.DefaultNetworkMode), "how pods of different nodes reach each other: by routes where nodes share a link, by vxlan, "+
		"auto chooses for each pair of nodes; none leaves it to the routers between them, and cni all of the pod network to the nodes' CNI plugin")
	fs.IntVar(&network.VXLANVNI, "vxlan-vni", api.DefaultVXLANVNI, "number of the VXLAN segment between nodes; clusters on the same machines need different ones")
	fs.IntVar(&network.VXLANPort, "vxlan-port", api.DefaultVXLANPort, "UDP port for VXLAN between nodes")
	fs.StringVar(&network.CNIConfDir, "cni-conf-dir", api.DefaultCNIConfDir, "with --network=cni: `directory` on each node of CNI configurations, of which the first by name is in force")
	fs.StringVar(&network.CNIBinDir, "cni-bin-dir", api.DefaultCNIBinDir, "with --network=cni: `directory` on each node of CNI plugins")
	fs.StringVar(&c.EvictionHard, "eviction-hard", api.DefaultEvictionHard,
		"what kubelets keep free by evicting pods, as SIGNAL<VALUE,...; signals that are not named have no threshold")
}

// Run starts the control plane and blocks until ctx is done or a part of it fails. When it returns, all that it started
// has stopped. A port or state directory that is in use is an error before anything is started.
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
	if err := c.StateDir.Prepare(c.pkiSpec(p, time.Now())); err != nil {
		return err
	}
	err = c.runEtcd(ctx, p)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // stopped while it was still starting
	}
	return err
}

// runEtcd is the lowest layer; the others end before it does.
func (c Config) runEtcd(ctx context.Context, p *ports) error {
	if len(c.EtcdServers) > 0 {
		existing := statedir.Etcd{
			Endpoints: c.EtcdServers, CAFile: c.EtcdCAFile, CertFile: c.EtcdCertFile, KeyFile: c.EtcdKeyFile,
		}
		if err := reachable(ctx, existing); err != nil {
			return err
		}
		if err := c.StateDir.WriteEtcd(existing); err != nil {
			return err
		}
		return c.runAPIServer(ctx, p, existing)
	}
	embedded, err := startEtcd(ctx, c.StateDir, p.etcd)
	if err != nil {
		return err
	}
	access := embeddedEtcd(c.StateDir, p.etcd)
	if err := c.StateDir.WriteEtcd(access); err != nil {
		embedded.Close()
		return err
	}
	access.CertFile, access.KeyFile = c.StateDir.Pair(statedir.APIServerEtcdClient)
	return whileRunning(ctx, start(ctx, embedded.run), func(ctx context.Context) error {
		return c.runAPIServer(ctx, p, access)
	})
}

// runAPIServer runs the API server and, once it is ready, all that are its clients.
func (c Config) runAPIServer(ctx context.Context, p *ports, etcd statedir.Etcd) error {
	admin, err := clientcmd.BuildConfigFromFlags("", c.StateDir.AdminKubeconfig())
	if err != nil {
		return fmt.Errorf("cannot read the administrator's kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		return fmt.Errorf("cannot make a client of the API server: %w", err)
	}
	run, err := c.apiServer(p.api, etcd)
	if err != nil {
		return err
	}
	s := start(ctx, run)
	return whileRunning(ctx, s, func(ctx context.Context) error {
		// kube-apiserver ends the whole process if it is stopped before it is ready.
		patient, cancel := s.outlive(ctx, startGrace)
		defer cancel()
		if err := waitReady(patient, client); err != nil || ctx.Err() != nil {
			return err
		}
		return c.runClients(ctx, client, c.serverURL(p))
	})
}

// startGrace is how long an API server that is to stop is given to become ready first.
const startGrace = 20 * time.Second

// runClients runs the clients of a ready API server.
func (c Config) runClients(ctx context.Context, client kubernetes.Interface, url string) error {
	manage, err := c.controllerManager()
	if err != nil {
		return err
	}
	approve := func(ctx context.Context) error { return approver.Run(ctx, client) }
	return whileRunning(ctx, start(ctx, manage), func(ctx context.Context) error {
		return whileRunning(ctx, start(ctx, approve), func(ctx context.Context) error {
			addOns, err := c.addOns()
			if err != nil {
				return err
			}
			if err := applyAddOns(ctx, client, addOns); err != nil {
				return err
			}
			logrus.WithField("url", url).Info("the control plane is ready")
			if c.Ready != nil {
				c.Ready(url)
			}
			if c.Beside != nil {
				if err := c.Beside(ctx); err != nil {
					return err
				}
			}
			<-ctx.Done()
			return nil
		})
	})
}

// Validate returns what would otherwise show only after parts have started; Run begins with it.
func (c Config) Validate() error {
	if c.StateDir == "" {
		return errors.New("cannot run without a state directory: give --state-dir")
	}
	for _, address := range [][2]string{{"--bind-address", c.BindAddress}, {"--advertise-address", c.Advertised()}} {
		if net.ParseIP(address[1]) == nil {
			return fmt.Errorf("cannot use %s=%s: not an IP address", address[0], address[1])
		}
	}
	if net.ParseIP(c.Advertised()).IsUnspecified() {
		return fmt.Errorf("cannot advertise %s: give --advertise-address with --bind-address=%s", c.Advertised(), c.BindAddress)
	}
	if _, err := c.ranges(); err != nil {
		return err
	}
	if err := c.validateDNS(); err != nil {
		return err
	}
	minions, err := c.minionConfig()
	if err != nil {
		return err
	}
	if err := minions.Validate(); err != nil {
		return err
	}
	if len(c.EtcdServers) == 0 && c.EtcdCAFile+c.EtcdCertFile+c.EtcdKeyFile != "" {
		return errors.New("cannot use --etcd-cafile, --etcd-certfile or --etcd-keyfile without --etcd-servers")
	}
	return nil
}

// absolute makes the paths good for programs that are started elsewhere: some are recorded in the state directory.
func (c Config) absolute() (Config, error) {
	dir := string(c.StateDir)
	for _, path := range []*string{&dir, &c.EtcdCAFile, &c.EtcdCertFile, &c.EtcdKeyFile} {
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
