package minion

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	dockerclient "github.com/docker/docker/client"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	"gopkg.in/natefinch/lumberjack.v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/logformat"
	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/executor"
	"github.com/k8sm/k8sm/executor/kube"
	"github.com/k8sm/k8sm/executor/mesos"
	"github.com/k8sm/k8sm/minion/commit"
	"github.com/k8sm/k8sm/minion/cri"
	"github.com/k8sm/k8sm/minion/embedded"
	"github.com/k8sm/k8sm/minion/network"
	"github.com/k8sm/k8sm/minion/network/cni"
	"github.com/k8sm/k8sm/minion/policy"
	"github.com/k8sm/k8sm/minion/status"
	"github.com/k8sm/k8sm/minion/supervise"
)

// node is what the minion runs on the machine: CRI server, kubelet, proxy, pod network.
type node struct {
	cfg          Config
	env          mesos.Config
	registration executor.Registration
	started      time.Time
	boot         api.Bootstrap                 // its API server is the node's own balancer, once that runs
	namedServer  string                        // URL of the API server that the scheduler named
	claims       claims                        // of the network namespace
	givenCA      []byte                        // the CA that the scheduler named; boot has those that the node believes when it starts
	trust        atomic.Pointer[x509.CertPool] // by which it believes API servers now
	serving      atomic.Pointer[[]byte]        // the PEM of the CAs of kubelets' serving certificates
	log          logrus.FieldLogger
	metrics      *status.Metrics
	traces       *podtrace.Book             // of the starts of this node's pods
	criServer    atomic.Pointer[cri.Server] // the current one; nil if none runs

	// Known once prepared.
	cluster  api.MinionConfig // with km minion's flags and the defaults filled in
	taken    string           // the api.MinionConfig.Settings of the cluster's configuration as it was fetched
	files    layout
	settings settings
	docker   *dockerclient.Client
	network  podNetwork
	policies *policy.Enforcer // nil without enforcement
	// problems are those of the agent that its operator should know.
	problems []string
	// unwarded is the problem with the node's warden; syncs are those with what the kernel has.
	unwarded []string
	syncs    syncProblems
	// first says that this machine had nothing of the node when the minion started. foreign is the problem with another kube-proxy.
	first   bool
	foreign []string
	// routes are the problems with prefixes that this machine does not route to pods.
	routes routeProblems
	// reached says that the pod network knows the other nodes from this process.
	reached bool
	// cgroupParent is the parent cgroup of containers; empty for Docker Engine's default. cgroup is that of the kubelet.
	cgroupParent string
	cgroup       podCgroup
}

// parts are the running parts of the node; nil if a part does not run.
type parts struct {
	runtime, kubelet, authorities, servers, policies, status, report, network, peers, pods, proxy, falcon, logs, commits *supervise.Part
}

func newNode(cfg Config, env mesos.Config, registration executor.Registration, traces *podtrace.Book) (*node, error) {
	boot, err := api.ParseBootstrap(registration.Data)
	if err != nil {
		return nil, err
	}
	here, err := claimsHere()
	if err != nil {
		return nil, err
	}
	return &node{cfg: cfg, env: env, registration: registration, started: time.Now(), boot: boot, claims: here, traces: traces,
		log: logrus.WithField("node", boot.Node), metrics: status.NewMetrics(api.Version, api.KubernetesVersion)}, nil
}

// run starts the node, and stops it when ctx ends. While it waits for the API server or Docker Engine, tasks stay in TASK_STARTING.
func (n *node) run(ctx context.Context, pods *kube.Pods, post func(executor.Event)) error {
	unlock, err := lock(ctx, n.locks().Node) // wait for an earlier executor that is still stopping this node
	if err != nil {
		return unlessEnded(ctx, err)
	}
	defer func() { _ = unlock() }()
	servers, err := n.reachAPIServers(ctx)
	if err != nil {
		return err
	}
	defer servers.stop()
	if err := n.configure(ctx, post); err != nil {
		return unlessEnded(ctx, err)
	}
	post(executor.Configured{IdleTimeout: n.cluster.IdleTimeout.Duration})
	if err := n.claimMachine(ctx, post, n.guardOrWarn); err != nil {
		return unlessEnded(ctx, err)
	}
	if err := n.noteForeignProxy(); err != nil {
		return err
	}
	shared, err := shareThisMachine()
	if err != nil {
		return err
	}
	defer shared.Close()
	kubeletPort, release, err := claimKubeletPort()
	if err != nil {
		return err
	}
	defer func() { _ = release() }()
	if err := n.prepare(ctx, kubeletPort); err != nil {
		return unlessEnded(ctx, err)
	}
	defer n.docker.Close()

	servers.Remember(n.files.apiServers())
	running, err := n.start(ctx, pods, post, servers)
	if err == nil {
		n.log.Info("the node is up")
		<-ctx.Done()
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace(n.env.ExecutorShutdownGracePeriod))
	defer cancel()
	return errors.Join(unlessEnded(ctx, err), n.stop(stopCtx, running, shared))
}

// unlessEnded drops the error if ctx has ended: the work was only interrupted.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// configure fetches the cluster's configuration and chooses the node's directory. If the API server keeps rejecting the node's
// credentials, the executor ends, and the next one has a new token.
func (n *node) configure(ctx context.Context, post func(executor.Event)) (err error) {
	clients, err := n.firstClients(time.Now())
	if err != nil {
		return err
	}
	var rejected rejection
	err = supervise.UntilDone(ctx, "the node has no configuration yet", func(ctx context.Context) error {
		var fetched api.MinionConfig
		var err error
		for _, client := range clients { // the certificate may be another cluster's
			if fetched, err = fetchConfig(ctx, client); !apierrors.IsUnauthorized(err) {
				break
			}
		}
		if rejected.lasts(time.Now(), err) {
			post(executor.Unfit{Reason: "the API server at " + n.namedServer + " rejects the bootstrap token: it has ended, or was used before; a new executor gets a new one"})
		}
		if err != nil {
			return err
		}
		n.taken = fetched.Settings()
		n.cluster, err = n.cfg.settle(fetched)
		return err
	})
	if err != nil {
		return err
	}
	if err := n.believeCluster(); err != nil {
		return err
	}
	logrus.SetFormatter(logformat.Format(n.cluster.LogFormat).Formatter())
	n.files, err = newLayout(n.cluster.RootDir, n.boot.Cluster, n.boot.Node)
	if err != nil {
		return err
	}
	return n.files.make()
}

// firstClients are clients by the node's certificate, if it may be valid, and by the token.
func (n *node) firstClients(now time.Time) (clients []kubernetes.Interface, err error) {
	identities := []*clientcmdapi.AuthInfo{tokenAuth(n.boot)}
	if usual, err := n.usualFiles(); err == nil && usual.checkIdentity(n.boot, now) == nil {
		identities = []*clientcmdapi.AuthInfo{usual.nodeAuth(), tokenAuth(n.boot)}
	}
	for _, who := range identities {
		client, err := newClient(n.boot, "", who)
		if err != nil {
			return nil, err
		}
		clients = append(clients, client)
	}
	return clients, nil
}

// usualFiles are the node's files unless the cluster's configuration names another directory.
func (n *node) usualFiles() (layout, error) {
	return newLayout(firstGiven(n.cfg.Given.RootDir, defaultRootDir), n.boot.Cluster, n.boot.Node)
}

// prepare writes all files and connects to Docker Engine. The kubelet gets kubeletPort if it is free.
func (n *node) prepare(ctx context.Context, kubeletPort int) (err error) {
	if err := n.settle(kubeletPort); err != nil {
		return err
	}
	if err := n.prepareLogs(); err != nil {
		return err
	}
	n.noteFlags(ctx)
	servingCA := n.cluster.KubeletServingCA
	if len(servingCA) == 0 { // a control plane of an older version
		servingCA = n.boot.CA
	}
	if err := n.files.prepareIdentity(n.boot, servingCA, time.Now()); err != nil {
		return err
	}
	if n.docker, err = cri.Connect(n.cluster.DockerHost, n.cluster.DockerCertPath); err != nil {
		return err
	}
	return supervise.UntilDone(ctx, "the machine is not ready for pods yet", func(ctx context.Context) (err error) {
		if _, err := n.docker.Ping(ctx); err != nil {
			return fmt.Errorf("cannot reach Docker Engine at %s (Debian: apt-get install docker.io): %w", n.cluster.DockerHost, err)
		}
		if err := n.contain(ctx); err != nil {
			return err
		}
		if err := n.makePodCgroup(ctx); err != nil {
			return err
		}
		if err := errors.Join(n.settings.write(), n.registryCAs().sync(n.cluster.RegistryCAs)); err != nil {
			return err
		}
		if n.network, err = n.newNetwork(); err != nil {
			return err
		}
		return errors.Join(n.network.Adopt(), n.preparePolicies(ctx))
	})
}

// podNetwork connects the node's pods: a *network.Network or a *cni.Network.
type podNetwork interface {
	cri.Network
	// Adopt takes over what an earlier process left, so that a starting kubelet finds the network ready.
	Adopt() error
	// Run maintains the network until ctx ends.
	Run(ctx context.Context) error
	// Each calls do with each sandbox on the network and its addresses.
	Each(do func(network.Sandbox, []netip.Addr))
	// Teardown removes everything that the network created.
	Teardown() error
}

// awaitPeers is how long new pods wait at most until a starting minion knows the other nodes. Pods must start while the API server is
// away, too.
const awaitPeers = 5 * time.Second

// mesh is a network that itself routes packets to the pods of other nodes.
type mesh interface {
	// Reach routes to exactly these nodes.
	Reach(peers []network.Peer)
	// Peers returns the last argument of Reach, also of an earlier process.
	Peers() []network.Peer
}

// newNetwork returns the network that the cluster's configuration names. If an earlier minion used the other kind, the sandboxes
// lose that network, and the kubelet recreates them.
func (n *node) newNetwork() (podNetwork, error) {
	plugins := cni.New(cni.Config{Node: n.boot.Node, ConfDir: n.cluster.Network.CNIConfDir, BinDir: n.cluster.Network.CNIBinDir, Dir: n.files.cni()})
	own, err := network.New(n.networkConfig())
	if n.cluster.Network.Mode != api.NetworkCNI {
		return own, errors.Join(err, plugins.Teardown())
	}
	if _, absent := os.Stat(n.files.network()); absent != nil {
		return plugins, nil // CNI plugins do not need our iptables
	}
	if err == nil {
		err = own.Teardown()
	}
	return plugins, err
}

// networkConfig returns the network's configuration. Without addresses, which cleanup does not know, it still serves for Teardown.
func (n *node) networkConfig() network.Config {
	cfg := network.Config{
		Cluster: n.boot.Cluster, Node: n.boot.Node, ClusterCIDR: n.cluster.ClusterCIDR, ServiceCIDR: n.cluster.ServiceCIDR,
		Network: n.cluster.Network, Addresses: n.settings.addresses, Dir: n.files.network(),
		Synced: n.synced(status.PodNetwork),
	}
	if n.watchesPeers() {
		cfg.AwaitPeers = awaitPeers
	}
	return cfg
}

// watchesPeers reports whether the node itself routes to the pods of others.
func (n *node) watchesPeers() bool {
	return n.cluster.Network.Mode != api.NetworkNone && n.cluster.Network.Mode != api.NetworkCNI
}

// settle chooses addresses, ports and resources.
func (n *node) settle(kubeletPort int) error {
	address, problem, err := nodeIP(n.env.AgentEndpoint)
	if err != nil {
		return err
	}
	if n.problems = nil; problem != "" {
		n.problems = append(n.problems, problem)
		n.log.Warn(problem)
	}
	addresses, err := nodeIPs(address, n.cluster.ClusterCIDR)
	if err != nil {
		return err
	}
	machine, err := machineCapacity(n.files.dir)
	if err != nil {
		return err
	}
	reserved, complaints, err := machine.reserve(n.registration.AgentResources, n.registration.ExecutorResources, n.cluster.EvictionHard)
	if err != nil {
		return err
	}
	for _, complaint := range complaints {
		n.log.Warn(complaint)
	}
	n.settings = settings{
		files:      n.files,
		node:       n.boot.Node,
		agent:      n.registration.Agent,
		cluster:    n.cluster,
		addresses:  addresses,
		reserved:   reserved,
		resolvConf: resolvConf(),
	}
	return n.settings.choosePorts(kubeletPort)
}

// start starts the parts in order. With an error it returns the parts that already run.
func (n *node) start(ctx context.Context, pods *kube.Pods, post func(executor.Event), servers *apiServers) (running parts, err error) {
	alive := context.WithoutCancel(ctx) // stop ends the parts in its own order, not ctx
	running.runtime = supervise.Start(alive, "the CRI server", n.counted(status.CRIServer, n.serveCRI))
	if err := n.awaitCRI(ctx); err != nil {
		return running, err
	}
	kubelet := supervise.Child{Args: n.settings.kubeletArgs(), Output: n.files.component(n.sandboxLog("kubelet"), "kubelet"), Health: &supervise.Health{Probe: n.kubeletHealth, Every: supervise.ProbeEvery}}
	first := &firstHealth{post: post, log: n.sandboxLog("kubelet").Filename}
	restarting := newRestartable(n.counted(status.Kubelet, first.watch(kubelet)))
	running.kubelet = supervise.Start(alive, "the kubelet", restarting.Run)
	if err := n.files.awaitIdentity(ctx, n.boot); err != nil {
		return running, err
	}
	client, err := newClient(n.boot, n.files.ca(), n.files.nodeAuth())
	if err != nil {
		return running, err
	}
	running.authorities = supervise.Start(alive, "the watch on the cluster's CAs", func(ctx context.Context) error {
		return n.followAuthorities(ctx, client, restarting.Restart)
	})
	running.servers = servers.follow(alive, client)
	running.policies = n.enforcePolicies(alive, client)
	server, err := n.listenForStatus(servers)
	if err != nil {
		return running, err
	}
	running.status = supervise.Start(alive, "the status server", server.Run)
	running.report = supervise.Start(alive, "the node report", func(ctx context.Context) error {
		r := report{version: api.Version, settings: n.taken, started: n.started, port: server.Port, authorities: n.authoritiesAnnotation,
			problems: slices.Concat(n.problems, n.foreign, n.unwarded), watch: n.watchProblems(client, servers.WrongClocks)}
		return r.keep(ctx, client, n.boot.Node)
	})
	if err := n.setUpNetwork(ctx, client); err != nil {
		n.log.WithError(err).Info("cannot set up the pod network yet: the kubelet will pass the pod CIDR")
	}
	running.network = supervise.Start(alive, "the pod network", n.network.Run)
	if mesh, ok := n.network.(mesh); ok && n.watchesPeers() {
		running.peers = supervise.Start(alive, "the watch on other nodes", func(ctx context.Context) error { return n.watchPeers(ctx, client, mesh, servers.Ready) })
	}
	running.pods = supervise.Start(alive, "the watch on the node's pods", func(ctx context.Context) error {
		var sandboxes errgroup.Group
		defer func() { _ = sandboxes.Wait() }()
		post := traced(n.traces, post)
		return pods.Run(ctx, client, n.boot.Node, func(event executor.Event) {
			post(event)
			switch event := event.(type) {
			case executor.PodChanged:
				n.makeAhead(ctx, &sandboxes, pods, event)
			case executor.PodGone:
				n.dismiss(ctx, &sandboxes, event.UID)
				sandboxes.Go(func() error { n.removeSandboxes(ctx, event.UID); return nil })
			}
		})
	})
	running.proxy = supervise.Start(alive, "the proxy", n.counted(status.Proxy, n.runProxy))
	running.falcon = n.startFalcon(alive, pods)
	running.logs = n.startLogs(alive, client, pods)
	running.commits = supervise.Start(alive, "the commits", n.commit(client))
	return running, nil
}

// runProxy runs kube-proxy, in whose PATH the small program nft stands first; see package nft. Without that it runs, too.
func (n *node) runProxy(ctx context.Context) error {
	proxy := supervise.Child{Args: n.settings.proxyArgs(), Output: n.files.component(n.sandboxLog("proxy"), "proxy"), Health: &supervise.Health{
		Probe: func(ctx context.Context) error { return getHealth(ctx, n.settings.proxyHealthPort, "/livez") }, Every: supervise.ProbeEvery,
	}}
	program, err := embedded.NFT(n.files.tools())
	if err != nil {
		n.log.WithError(err).Warn("in mode nftables, kube-proxy will be slow with thousands of services")
	} else {
		defer program.Close()
		proxy.Env = append(os.Environ(), "PATH="+n.files.tools()+string(filepath.ListSeparator)+os.Getenv("PATH"))
	}
	return proxy.Run(ctx)
}

// kubeletHealth probes the kubelet. It ignores what Docker Engine's absence causes.
func (n *node) kubeletHealth(ctx context.Context) error {
	err := getHealth(ctx, n.settings.kubeletHealthPort, "/healthz")
	if errors.As(err, &unhealthy{}) {
		if _, pingErr := n.docker.Ping(ctx); pingErr != nil {
			return nil
		}
	}
	return err
}

// setUpNetwork gives the node's pod CIDRs to the pod network while the kubelet still starts. A kubelet that finds no network checks
// again only five seconds later.
func (n *node) setUpNetwork(ctx context.Context, api kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	node, err := api.CoreV1().Nodes().Get(ctx, n.boot.Node, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("cannot read the node's pod CIDRs: %w", err)
	}
	return n.network.Setup(node.Spec.PodCIDRs)
}

// sandboxLog returns a log file in the Mesos sandbox, where the operator's tools look. Its size is bounded.
func (n *node) sandboxLog(program string) *lumberjack.Logger {
	return &lumberjack.Logger{Filename: filepath.Join(n.env.Sandbox, program+".log"), MaxSize: 10 /* MB */, MaxBackups: 3}
}

// stop stops the kubelet first, so that it restarts nothing, then the containers and everything made for them. It continues after an
// error and returns all errors.
func (n *node) stop(ctx context.Context, running parts, shared *machineShare) error {
	n.log.Info("stopping the node")
	running.authorities.Stop()
	running.kubelet.Stop()
	running.report.Stop()
	running.falcon.Stop()
	running.commits.Stop()
	running.pods.Stop()
	running.policies.Stop()
	running.peers.Stop()
	running.network.Stop()
	running.servers.Stop()
	var containers, proxy errgroup.Group
	containers.Go(func() error {
		return errors.Join(commit.Tidy(ctx, n.docker, n.boot.Node, n.files.commits()), n.removeContainers(ctx), n.network.Teardown(),
			policy.Remove(ctx, n.boot.Cluster, n.boot.Node), unmountBelow(n.files.dir), n.removePodCgroups(ctx), n.removeCgroups(""),
			n.registryCAs().remove(nil))
	})
	proxy.Go(func() error {
		running.proxy.Stop()
		if !shared.last() {
			return nil // another node uses the rules, too
		}
		return n.cleanUpProxy(ctx)
	})
	err := errors.Join(containers.Wait(), proxy.Wait())
	if running.logs != nil {
		_ = supervise.Sleep(ctx, lastLines)
	}
	running.logs.Stop()
	running.status.Stop()
	running.runtime.Stop()
	if err == nil {
		if err = os.Remove(n.files.leftovers()); errors.Is(err, os.ErrNotExist) {
			err = nil // whoever had the lock before has stopped the node, too
		}
	}
	if err == nil {
		err = errors.Join(n.claims.release(n.boot.Cluster, n.boot.Node), n.locks().Dismiss())
	}
	if err == nil {
		n.log.Info("the node is stopped: only its files are left on this machine")
	}
	return err
}

// cleanUpProxy removes the service rules as kube-proxy --cleanup does, and what kube-proxy leaves to a kubelet.
func (n *node) cleanUpProxy(ctx context.Context) error {
	if _, err := os.Stat(n.files.proxyConfig()); errors.Is(err, os.ErrNotExist) {
		return nil // it has never run
	}
	cleaner := supervise.Child{Args: append(n.settings.proxyArgs(), "--cleanup"), Output: n.sandboxLog("proxy")}
	if err := cleaner.Run(ctx); err != nil {
		return fmt.Errorf("cannot remove the service rules: %w", err)
	}
	return network.RemoveEmptyFirewall()
}
