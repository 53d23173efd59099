// Command km is k8sm: every role of a cluster in one binary, a command a role. This file reads command lines, sets up
// logging and puts the parts together; it is the only place that knows all of them, and it knows nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bombsimon/logrusr/v4"
	"github.com/docker/docker/client"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/api/v3/version"
	"golang.org/x/sync/errgroup"
	"gopkg.in/natefinch/lumberjack.v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	"k8s.io/klog/v2"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/controlplane"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/assigner"
	"github.com/k8sm/k8sm/contrib/cli/clients"
	"github.com/k8sm/k8sm/contrib/cli/configfile"
	"github.com/k8sm/k8sm/contrib/dns"
	"github.com/k8sm/k8sm/contrib/localmesos"
	"github.com/k8sm/k8sm/contrib/up"
	"github.com/k8sm/k8sm/contrib/up/engine"
	"github.com/k8sm/k8sm/contrib/up/machines"
	"github.com/k8sm/k8sm/minion"
	"github.com/k8sm/k8sm/minion/keeper"
	"github.com/k8sm/k8sm/minion/kubelet"
	"github.com/k8sm/k8sm/minion/proxy"
	"github.com/k8sm/k8sm/minion/stepout"
	"github.com/k8sm/k8sm/minion/supervise"
	"github.com/k8sm/k8sm/minion/warden"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/artifact"
	"github.com/k8sm/k8sm/scheduler/kube"
	"github.com/k8sm/k8sm/scheduler/mesos"
	"github.com/k8sm/k8sm/scheduler/status"
)

func main() {
	// The stock programs set up signals, logs and their flushing themselves, in the way of stock programs.
	if len(os.Args) > 1 && (os.Args[1] == "kubelet" || os.Args[1] == "proxy") {
		os.Exit(cli.Run(rootCommand()))
	}
	if err := rootCommand().Execute(); err != nil {
		fmt.Fprintf(os.Stderr, "km: %v\n", err)
		os.Exit(1)
	}
}

// defaultStateDir is where a cluster's state is when nobody says otherwise.
const defaultStateDir = "/var/lib/k8sm"

// defaultName is a cluster's name when nobody says otherwise.
const defaultName = "k8sm"

// common is what the flags before a command say.
type common struct {
	stateDir string
	logLevel string
}

func (c *common) dir() statedir.Dir { return statedir.Dir(c.stateDir) }

func rootCommand() *cobra.Command {
	cobra.EnablePrefixMatching = false // etcdctl's package turns it on for the whole process
	var c common
	root := &cobra.Command{
		Use:   "km",
		Short: "Kubernetes as an Apache Mesos framework",
		Long: `km runs current, unmodified Kubernetes as an Apache Mesos framework: every pod is a Mesos task, and every Mesos
agent that sends an offer becomes a node. All roles of a cluster are in this one program, a command a role.

To try it on this machine, as root: km up`,
		SilenceUsage:     true,
		SilenceErrors:    true,
		TraverseChildren: true, // kubectl's and etcdctl's flags are theirs, so ours stand before the command
	}
	root.PersistentFlags().StringVar(&c.stateDir, "state-dir", defaultStateDir, "`directory` of the cluster's certificates, kubeconfigs and data")
	root.PersistentFlags().StringVar(&c.logLevel, "log-level", "info", "what to log: debug, info, warn or error")
	root.AddGroup(&cobra.Group{ID: "use", Title: "Use a cluster:"}, &cobra.Group{ID: "run", Title: "Run the parts of a cluster:"},
		&cobra.Group{ID: "node", Title: "Run on a node; the Mesos agent and the minion start these:"})
	kubelet, proxy := kubelet.NewCommand(context.Background()), proxy.NewCommand()
	kubelet.Short, proxy.Short = "Stock kubelet", "Stock kube-proxy"
	// Some stock package adds a --version to every command of the process; ours is a command.
	if flag := pflag.CommandLine.Lookup("version"); flag != nil {
		flag.Hidden = true
	}
	for group, commands := range map[string][]*cobra.Command{
		"use":  append(statusCommands(&c), nodeCommand(&c), configurable(upCommand(&c)), kubectlCommand(&c), etcdctlCommand(&c), assignerCommand(&c)),
		"run":  {configurable(apiserverCommand(&c)), configurable(schedulerCommand(&c)), configurable(dnsCommand(&c)), localMesosCommand(&c)},
		"node": {configurable(minionCommand(&c)), kubelet, proxy},
	} {
		for _, command := range commands {
			command.GroupID = group
			root.AddCommand(command)
		}
	}
	root.AddCommand(versionCommand(), wardenCommand(&c), stepOutCommand(), cleanUpCommand(&c))
	return root
}

// serve runs a role until it ends or a person or Mesos wants it to end. A second signal ends the program at once.
func serve(c *common, role func(ctx context.Context) error) error {
	level, err := logrus.ParseLevel(c.logLevel)
	if err != nil {
		return fmt.Errorf("--log-level=%s: give debug, info, warn or error", c.logLevel)
	}
	logrus.SetLevel(level)
	logrus.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, TimestampFormat: "2006-01-02T15:04:05.000Z07:00"})
	takeOverKlog()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	if err := role(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// takeOverKlog lets klog write through logrus. What the stock packages call information is for people who debug them.
func takeOverKlog() { klog.SetLogger(logrusr.New(logrus.StandardLogger()).V(1)) }

// configurable gives a command a file of settings. The command line wins over it.
func configurable(cmd *cobra.Command) *cobra.Command {
	file := cmd.Flags().String(configfile.Flag, "",
		"YAML `file` of settings whose keys are the names of these flags, without the dashes; flags given here win")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if *file == "" {
			return nil
		}
		return configfile.Apply(cmd.Flags(), *file)
	}
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the versions of km and of what is in it", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "km %s\nKubernetes %s\netcd %s\n%s %s/%s\n",
				api.Version, api.KubernetesVersion, version.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}

func kubectlCommand(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "kubectl", Short: "Stock kubectl, as this cluster's administrator", DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return clients.Kubectl(c.dir(), args) },
	}
}

func etcdctlCommand(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "etcdctl", Short: "Stock etcdctl, with the address and certificates of this cluster's etcd", DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return clients.Etcdctl(c.dir(), args) },
	}
}

func assignerCommand(c *common) *cobra.Command {
	return assigner.NewCommand(func(ctx context.Context, name string) (assigner.Cluster, error) {
		takeOverKlog() // etcd's client tells there of each connection that is closed
		etcd, err := c.dir().Etcd()
		if err != nil {
			return assigner.Cluster{}, err
		}
		config, err := clientcmd.BuildConfigFromFlags("", c.dir().AdminKubeconfig())
		if err != nil {
			return assigner.Cluster{}, fmt.Errorf("cannot read who the administrator is: %w", err)
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return assigner.Cluster{}, fmt.Errorf("cannot make a client of the API server: %w", err)
		}
		store, err := state.Open(ctx, stateConfig(etcd, name))
		if err != nil {
			return assigner.Cluster{}, err
		}
		return assigner.Cluster{KV: store.Folder(assigner.Folder), Kubernetes: client, Close: func() { _ = store.Close() }}, nil
	}, defaultName)
}

// statusCommands show what a scheduler holds.
func statusCommands(c *common) []*cobra.Command {
	return []*cobra.Command{
		statusCommand(c, "offers", "Show the Mesos offers that the scheduler holds", (*status.Client).Offers, status.PrintOffers),
		statusCommand(c, "tasks", "Show the Mesos tasks of the pods", (*status.Client).Tasks, status.PrintTasks),
		statusCommand(c, "nodes", "Show the nodes with the versions of km that run there, and how a rollout stands", (*status.Client).Nodes, status.PrintNodes),
		statusCommand(c, "queue", "Show the pods that wait for a task, and why", (*status.Client).Queue, status.PrintQueue),
	}
}

func statusCommand[T any](c *common, name, short string, read func(*status.Client, context.Context) ([]T, error),
	table func(io.Writer, time.Time, []T) error) *cobra.Command {
	var output, address, clusterName, serverName string
	cmd := &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs,
		Long: short + `. It asks the leading scheduler as the cluster's administrator, whose kubeconfig is in --state-dir; where that one serves its
status is in etcd, unless --status-address says so.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("--output=%s: give table or json", output)
			}
			client, err := statusClient(cmd.Context(), c.dir(), clusterName, address, serverName)
			if err != nil {
				return err
			}
			list, err := read(client, cmd.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				return status.PrintJSON(cmd.OutOrStdout(), list)
			}
			return table(cmd.OutOrStdout(), time.Now(), list)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "how to print it: table or json")
	cmd.Flags().StringVar(&address, "status-address", "", "`host:port` on which the scheduler serves its status (default: where the leading one does)")
	cmd.Flags().StringVar(&clusterName, "name", defaultName, "name of the cluster, as km scheduler --name has it")
	cmd.Flags().StringVar(&serverName, "tls-server-name", statedir.SchedulerServerName, "name that the scheduler's certificate has to be for")
	return cmd
}

// statusClient asks as the administrator of the cluster in the directory.
func statusClient(ctx context.Context, dir statedir.Dir, name, address, serverName string) (*status.Client, error) {
	if _, err := os.Stat(dir.AdminKubeconfig()); errors.Is(err, os.ErrNotExist) {
		return nil, dir.NoCluster()
	}
	admin, err := clientcmd.BuildConfigFromFlags("", dir.AdminKubeconfig())
	if err != nil {
		return nil, fmt.Errorf("cannot read who the administrator is: %w", err)
	}
	if address == "" {
		if address, err = leaderAddress(ctx, dir, name); err != nil {
			return nil, fmt.Errorf("cannot find the leading scheduler: %w; or say by --status-address where it serves its status", err)
		}
	}
	return status.NewClient(address, status.Identity{
		CA: admin.CAData, Cert: admin.CertData, Key: admin.KeyData, ServerName: serverName,
	})
}

// kmFor returns how to call km for the cluster in the directory.
func kmFor(dir statedir.Dir, km string) string {
	if dir == defaultStateDir {
		return km
	}
	return km + " --state-dir " + string(dir)
}

// leaderAddress asks the cluster's etcd where the leading scheduler serves its status.
func leaderAddress(ctx context.Context, dir statedir.Dir, name string) (string, error) {
	takeOverKlog() // etcd's client tells there of each connection that is closed
	etcd, err := dir.Etcd()
	if err != nil {
		return "", err
	}
	store, err := state.Open(ctx, stateConfig(etcd, name))
	if err != nil {
		return "", err
	}
	defer store.Close()
	return status.FindLeader(ctx, store)
}

func stateConfig(e statedir.Etcd, name string) state.Config {
	return state.Config{Endpoints: e.Endpoints, CAFile: e.CAFile, CertFile: e.CertFile, KeyFile: e.KeyFile, Name: name}
}

func apiserverCommand(c *common) *cobra.Command {
	var cfg controlplane.Config
	var replicas dns.Replicas
	cmd := &cobra.Command{
		Use: "apiserver", Short: "Run etcd, kube-apiserver, kube-controller-manager and the cluster's DNS", Args: cobra.NoArgs,
		Long: `Runs the control plane in one process: an etcd (or, with --etcd-servers, none), the stock kube-apiserver and the stock
kube-controller-manager; and, unless it listens on loopback only, the cluster's DNS in processes beside it. Certificates and kubeconfigs are made in --state-dir at the first start; km scheduler, km kubectl and
km etcdctl with the same --state-dir find everything there.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.StateDir = c.dir()
			cfg.Ready = func(url string) { logrus.WithField("url", url).Info("the control plane is ready") }
			return serve(c, func(ctx context.Context) error {
				if err := advertise(&cfg); err != nil {
					return err
				}
				replicas, err := dnsOf(ctx, c, cfg, replicas)
				if err != nil {
					return err
				}
				cfg.Beside = func(ctx context.Context) error {
					return replicas.Run(ctx, os.Stderr, func() { logrus.Info("the cluster's DNS is ready") })
				}
				return controlplane.Run(ctx, cfg)
			})
		},
	}
	cfg.AddFlags(cmd.Flags())
	replicas.AddFlags(cmd.Flags())
	cmd.Flags().Lookup("advertise-address").Usage = advertiseUsage
	return cmd
}

const advertiseUsage = "IP address at which nodes and pods reach the API server (default: --bind-address, or this machine's if that is 0.0.0.0 or ::)"

// advertise gives an API server that listens on all addresses the one by which others know this machine, unless one was given.
func advertise(plane *controlplane.Config) error {
	if !net.ParseIP(plane.BindAddress).IsUnspecified() || plane.AdvertiseAddress != "" {
		return nil
	}
	ip, err := minion.MachineIP()
	if err != nil {
		return fmt.Errorf("cannot find the address at which nodes and pods reach the API server: %w; give it by --advertise-address", err)
	}
	plane.AdvertiseAddress = ip.String()
	return nil
}

// dnsOf completes what the flags say of the DNS servers beside a control plane, and checks it. There are none where pods would
// not reach them, or are told of others.
func dnsOf(ctx context.Context, c *common, plane controlplane.Config, replicas dns.Replicas) (dns.Replicas, error) {
	if len(plane.DNSService()) == 0 {
		replicas.Count = 0
	}
	if replicas.Count == 0 {
		return replicas, replicas.Validate()
	}
	replicas.Kubeconfig, replicas.LogLevel, replicas.ClientCAFile = plane.StateDir.DNSKubeconfig(), c.logLevel, plane.StateDir.CA()
	replicas.CertFile, replicas.KeyFile = plane.StateDir.Pair(statedir.DNSServer)
	if replicas.Address == "" {
		replicas.Address = plane.Advertised()
	}
	return replicas, replicas.Check(ctx)
}

func dnsCommand(c *common) *cobra.Command {
	var cfg dns.Config
	var check bool
	cmd := &cobra.Command{
		Use: "dns", Short: "Run a server of the cluster's DNS", Args: cobra.NoArgs,
		Long: `Serves the names of services and pods by CoreDNS, and asks this machine's servers for all others. km apiserver and km up run
two of these; more can run on other machines that pods reach, each with a copy of dns.kubeconfig, which is in the control
plane's --state-dir. A server is in the service kube-dns as long as it answers.`,
		RunE: func(*cobra.Command, []string) error {
			return serve(c, func(ctx context.Context) error {
				if check {
					return dns.Check(cfg)
				}
				if cfg.Kubeconfig == "" {
					cfg.Kubeconfig = c.dir().DNSKubeconfig()
				}
				if cfg.CertFile == "" {
					cfg.CertFile, cfg.KeyFile = c.dir().Pair(statedir.DNSServer)
				}
				if cfg.ClientCAFile == "" {
					cfg.ClientCAFile = c.dir().CA()
				}
				return dns.Run(ctx, cfg)
			})
		},
	}
	cfg.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&check, "check", false, "only tell whether the configuration is right")
	return cmd
}

func localMesosCommand(c *common) *cobra.Command {
	var cfg localmesos.Config
	cmd := &cobra.Command{
		Use: "local-mesos", Short: "Run a Mesos master and agents for a laptop and for tests", Args: cobra.NoArgs,
		Long: `Runs a Mesos master and its agents in one process, on loopback: the v1 scheduler, executor and operator APIs as a real Mesos
answers them, with executors as real processes. It is for trying things; it authenticates schedulers only. Flags
have the names and the syntax of Mesos's own. Ctrl-C ends the executors too.`,
		RunE: func(*cobra.Command, []string) error {
			return serve(c, func(ctx context.Context) error { return localmesos.Run(ctx, cfg) })
		},
	}
	cfg.AddFlags(cmd.Flags())
	return cmd
}

func minionCommand(c *common) *cobra.Command {
	var cfg minion.Config
	cmd := &cobra.Command{
		Use: "minion", Short: "Run the Mesos executor that makes its agent's machine a node", Args: cobra.NoArgs,
		Long: `Is started by a Mesos agent as the executor of k8sm's tasks, and by nobody else: it wants the environment that an agent gives.
It starts and watches the stock kubelet and kube-proxy and serves the kubelet's runtime interface over Docker Engine.`,
		RunE: func(*cobra.Command, []string) error {
			link, err := keeper.Adopt()
			if err != nil {
				return err
			}
			err = serve(c, func(ctx context.Context) error { return minion.Run(ctx, cfg, link != nil) })
			if err != nil {
				link.Ending(1)
			} else {
				link.Ending(0)
			}
			return err
		},
	}
	cfg.AddFlags(cmd.Flags())
	return cmd
}

// stepOutCommand runs in a container that a minion has Docker Engine start.
func stepOutCommand() *cobra.Command {
	return &cobra.Command{
		Use: stepout.Command, Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return stepout.Board(args[0]) },
	}
}

// wardenCommand does the work of a process that has waited in the package warden: the minion starts it.
func wardenCommand(c *common) *cobra.Command {
	return &cobra.Command{
		Use: warden.Command, Hidden: true, Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return serve(c, func(ctx context.Context) error { return minion.CleanUpKilled(ctx, args[0]) })
		},
	}
}

// schedule is what the scheduler needs beside its own configuration.
type schedule struct {
	scheduler  scheduler.Config
	mesos      mesos.Config
	status     status.Config
	artifact   artifact.Config
	kubeconfig string
	etcd       state.Config
}

func (s *schedule) addFlags(fs *pflag.FlagSet) {
	s.scheduler.AddFlags(fs)
	s.mesos.AddFlags(fs)
	s.status.AddFlags(fs)
	s.artifact.AddFlags(fs)
	fs.StringVar(&s.etcd.Name, "name", defaultName, "name of the cluster: several can share an etcd and the agents")
}

func schedulerCommand(c *common) *cobra.Command {
	var s schedule
	cmd := &cobra.Command{
		Use: "scheduler", Short: "Run the Mesos framework that schedules pods", Args: cobra.NoArgs,
		Long: `Subscribes to a Mesos master as a framework, makes each agent that sends an offer a node, and launches each pending pod as a
task. Any number of schedulers may run; one of them leads. It finds the control plane through --state-dir, where km apiserver
left its kubeconfig and etcd's address, unless the flags say otherwise.`,
		RunE: func(*cobra.Command, []string) error {
			return serve(c, func(ctx context.Context) error { return s.run(ctx, c.dir()) })
		},
	}
	s.addFlags(cmd.Flags())
	cmd.Flags().StringVar(&s.kubeconfig, "kubeconfig", "", "`file` that says where the API server is and who calls it (default: the state directory's)")
	cmd.Flags().StringSliceVar(&s.etcd.Endpoints, "etcd-servers", nil, "URLs of etcd (default: as the state directory says)")
	cmd.Flags().StringVar(&s.etcd.CAFile, "etcd-cafile", "", "with --etcd-servers: authority of etcd's certificate")
	cmd.Flags().StringVar(&s.etcd.CertFile, "etcd-certfile", "", "with --etcd-servers: client certificate")
	cmd.Flags().StringVar(&s.etcd.KeyFile, "etcd-keyfile", "", "with --etcd-servers: key of the client certificate")
	return cmd
}

// run schedules until ctx ends.
func (s *schedule) run(ctx context.Context, dir statedir.Dir) error {
	if len(s.etcd.Endpoints) == 0 {
		etcd, err := dir.Etcd()
		if err != nil {
			return fmt.Errorf("%w: start a control plane with km apiserver, or give --state-dir, or --etcd-servers and --kubeconfig", err)
		}
		s.etcd = stateConfig(etcd, s.etcd.Name)
	}
	if s.kubeconfig == "" {
		s.kubeconfig = dir.SchedulerKubeconfig()
	}
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	if err != nil {
		return fmt.Errorf("cannot read how to reach the API server: %w", err)
	}
	// A burst of pods is a burst of bindings; the API server has limits of its own.
	config.QPS, config.Burst = 500, 1000
	if err := rest.LoadTLSFiles(config); err != nil {
		return fmt.Errorf("cannot read the API server's authority: %w", err)
	}
	kubernetes, err := kube.NewClient(config)
	if err != nil {
		return fmt.Errorf("cannot make a client of the API server: %w", err)
	}
	s.mesos.Forget = kmFor(dir, "km") + " etcdctl del " + state.FrameworkKey(s.etcd.Name)
	master, err := mesos.New(s.mesos)
	if err != nil {
		return err
	}
	store, err := state.Open(ctx, s.etcd)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := s.readMinionConfig(ctx, kubernetes); err != nil {
		return err
	}
	s.scheduler.Version = api.Version
	s.scheduler.Roles, s.scheduler.Revocable = s.mesos.Roles, s.mesos.Revocable
	s.scheduler.Cluster, s.scheduler.APIServer, s.scheduler.CA = s.etcd.Name, config.Host, config.CAData
	cluster := kube.New(kubernetes)
	parts := scheduler.Parts{Master: master, Cluster: cluster, Store: store, Tokens: cluster, Codec: mesos.Codec{},
		Addresses: assigner.New(store.Folder(assigner.Folder))}
	if s.scheduler.KMPath != "" {
		return s.runBesideStatus(ctx, dir, parts)
	}
	program, err := artifact.Listen(s.artifact, s.mesos.Peers())
	if err != nil {
		return err
	}
	s.scheduler.Artifact = scheduler.Artifact{URL: program.URL(), SHA256: program.SHA256()}
	logrus.WithField("url", program.URL()).Info("serving km to agents")
	return beside(ctx, program.Run, func(ctx context.Context) error { return s.runBesideStatus(ctx, dir, parts) })
}

// readMinionConfig waits until the cluster says which ports of nodes are for services, how long idle minions stay, and where Docker
// Engines listen.
func (s *schedule) readMinionConfig(ctx context.Context, cluster kubernetes.Interface) error {
	return supervise.UntilDone(ctx, "the cluster has not said yet how minions are configured", func(ctx context.Context) error {
		object, err := cluster.CoreV1().ConfigMaps(api.MinionConfigNamespace).Get(ctx, api.MinionConfigName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		minions, err := api.ReadMinionConfig(object.Data)
		if err != nil {
			return err
		}
		s.scheduler.SuicideTimeout = api.DefaultSuicideTimeout
		if minions.SuicideTimeout != nil {
			s.scheduler.SuicideTimeout = minions.SuicideTimeout.Duration
		}
		if minions.DockerHost != client.DefaultDockerHost {
			s.scheduler.DockerHost = minions.DockerHost
		}
		s.scheduler.NodePorts.Begin, s.scheduler.NodePorts.End, err = minions.NodePortRange()
		return err
	})
}

// beside runs a role, and a server as long as that.
func beside(ctx context.Context, server, role func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	serving, stop := context.WithCancel(ctx)
	group.Go(func() error { return server(serving) })
	group.Go(func() error {
		defer stop()
		return role(ctx)
	})
	return group.Wait()
}

// runBesideStatus schedules, and shows how it goes unless nobody wants to see it.
func (s *schedule) runBesideStatus(ctx context.Context, dir statedir.Dir, parts scheduler.Parts) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cannot find this machine's name: %w", err)
	}
	s.scheduler.Identity = status.SchedulerName(host, os.Getpid(), "")
	if s.status.Address == "" {
		return scheduler.Run(ctx, s.scheduler, parts)
	}
	if err := s.status.Validate(); err != nil {
		return err
	}
	if s.status.CertFile == "" {
		s.status.CertFile, s.status.KeyFile = dir.Pair(statedir.SchedulerServer)
	}
	if s.status.ClientCAFile == "" {
		s.status.ClientCAFile = dir.CA()
	}
	metrics := prometheus.NewRegistry()
	parts.Metrics, parts.Window = metrics, scheduler.NewWindow()
	server, err := status.Listen(s.status, parts.Window, metrics)
	if err != nil {
		return err
	}
	s.scheduler.Identity = status.SchedulerName(host, os.Getpid(), server.Reachable())
	logrus.WithField("address", server.Addr()).Info("serving the scheduler's status")
	return beside(ctx, server.Run, func(ctx context.Context) error { return scheduler.Run(ctx, s.scheduler, parts) })
}

// laptop is a whole cluster on one machine.
type laptop struct {
	plane      controlplane.Config
	dns        dns.Replicas
	mesos      localmesos.Config
	schedule   schedule
	dir        statedir.Dir
	dockerHost string
	nodes      machines.Config
	machines   *machines.Machines // nil for one node, which is this machine itself
}

func upCommand(c *common) *cobra.Command {
	var l laptop
	cmd := &cobra.Command{
		Use: "up", Short: "Run everything on this machine: the lightest way to try it", Args: cobra.NoArgs,
		Long: `Brings a cluster of one node up and stays until Ctrl-C: etcd, the Kubernetes control plane, a local Mesos with one agent and
the scheduler in this process, and a Docker Engine if none answers. Needs root. All state is in --state-dir: the next km up with
the same one brings the same cluster back. What the parts log is in log/km.log there.

With --nodes=N there are N agents, node-1, node-2 and so on, each as on a machine of its own: in a network namespace with an IP
address, with a Docker Engine of its own. "km node" cuts them off, slows them down and stops them.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if l.nodes.Count > 1 && cmd.Flags().Changed("docker-host") {
				return errors.New("cannot use --docker-host with --nodes: each of several nodes gets a Docker Engine of its own")
			}
			dir, err := filepath.Abs(c.stateDir) // what is below it is for programs that run elsewhere
			if err != nil {
				return fmt.Errorf("cannot find %s: %w", c.stateDir, err)
			}
			l.dir = statedir.Dir(dir)
			return serve(c, func(ctx context.Context) error { return l.run(ctx, c, cmd.OutOrStdout()) })
		},
	}
	l.addFlags(cmd.Flags())
	return cmd
}

// addFlags takes over the flags of the parts, less those that `km up` fills in.
func (l *laptop) addFlags(fs *pflag.FlagSet) {
	parts := pflag.NewFlagSet("parts", pflag.ContinueOnError)
	l.plane.AddFlags(parts)
	l.dns.AddFlags(parts)
	l.schedule.addFlags(parts)
	bind := parts.Lookup("bind-address")
	l.plane.BindAddress, bind.DefValue = net.IPv4zero.String(), net.IPv4zero.String()
	bind.Usage += "; pods reach none that listens on loopback only"
	parts.Lookup("advertise-address").Usage = advertiseUsage
	for _, name := range []string{"etcd-servers", "etcd-cafile", "etcd-certfile", "etcd-keyfile",
		"node-root-dir", "docker-host", "km-path", "artifact-address", "mesos-master", "mesos-connect-timeout", "mesos-principal", "mesos-secret-file", "mesos-ca-file", "mesos-cert-file", "mesos-key-file",
		"tls-cert-file", "tls-private-key-file", "client-ca-file", "enable-aggregator-routing"} {
		parts.Lookup(name).Hidden = true
	}
	mesosFlags := pflag.NewFlagSet("mesos", pflag.ContinueOnError)
	l.mesos.AddFlags(mesosFlags)
	for _, name := range []string{"resources", "attributes", "hostname", "isolation", "cgroups-enable-cfs", "enforce-container-disk-quota",
		"container-disk-watch-interval", "enforce-container-ports", "container-ports-watch-interval", "executor-environment-variables"} {
		fs.AddFlag(mesosFlags.Lookup(name))
	}
	port := mesosFlags.Lookup("port")
	port.Name = "mesos-port"
	fs.AddFlag(port)
	parts.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			fs.AddFlag(f)
		}
	})
	fs.IntVar(&l.nodes.Count, "nodes", 1, "`number` of nodes. One is this machine itself; several are network namespaces on it, each with an agent, a Docker Engine and a kubelet of its own")
	fs.StringVar(&l.nodes.CIDR, "node-cidr", "", "with --nodes: `range` of the nodes' IP addresses, or an IPv4 and an IPv6 one; the first address is this machine's (default "+
		machines.DefaultCIDR+", and "+machines.DefaultCIDR6+" if pods have IPv6 addresses)")
	fs.StringVar(&l.dockerHost, "docker-host", os.Getenv("DOCKER_HOST"), "Docker Engine to use (default: the machine's own if it answers, else one that km up starts)")
}

// run brings the cluster up, tells what to try, and takes it down when ctx ends.
func (l *laptop) run(ctx context.Context, c *common, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("km up makes network devices and starts containers: run it as root")
	}
	// Devices, rules and the node's name are the machine's: a second cluster would take them from the first.
	unlock, err := statedir.Dir("/run/k8sm").Lock("up")
	if err != nil {
		return fmt.Errorf("one machine takes one km up: %w", err)
	}
	defer func() { _ = unlock() }()
	if err := l.preflight(ctx, c); err != nil {
		return err
	}
	log := &lumberjack.Logger{Filename: filepath.Join(string(l.dir), "log", "km.log"), MaxSize: 50, MaxBackups: 3}
	defer log.Close()
	logrus.SetOutput(log)

	context.AfterFunc(ctx, func() {
		fmt.Fprintf(out, "stopping the cluster; its state stays in %s (Ctrl-C again ends km at once and leaves pods running)\n", l.dir)
	})
	machines, err := l.machineParts(ctx, out)
	if err != nil {
		return err
	}
	return up.Run(ctx, out, append(machines,
		up.Part{Name: "control plane", Run: l.runControlPlane},
		up.Part{Name: "DNS", Run: l.runDNS},
		up.Part{Name: "local Mesos", Run: l.runMesos},
		up.Part{Name: "scheduler", Run: l.runScheduler},
	), func() { l.tell(out) })
}

// machineParts are the parts that the nodes run on.
func (l *laptop) machineParts(ctx context.Context, out io.Writer) ([]up.Part, error) {
	if l.machines != nil {
		return []up.Part{{Name: "nodes", Run: l.runMachines}, {Name: "Docker Engines", Run: l.runEngines}}, nil
	}
	found, err := l.findEngine(ctx)
	if err != nil {
		return nil, err
	}
	if found != "" {
		fmt.Fprintln(out, "using the Docker Engine "+found)
		return nil, nil
	}
	return []up.Part{{Name: "Docker Engine", Run: l.runEngine}}, nil
}

func (l *laptop) tell(out io.Writer) {
	km := "km"
	if path, err := os.Executable(); err == nil {
		km = path
	}
	km = kmFor(l.dir, km)
	fmt.Fprintf(out, `
%s Its kubeconfig is %s
Try, in another terminal:

  %s kubectl get nodes -o wide
  %s kubectl apply -f POD.yaml
  %s etcdctl get --prefix /registry/minions

Ctrl-C stops it; what happens is logged in %s

`, up.ReadyWords, l.dir.AdminKubeconfig(), km, km, km, filepath.Join(string(l.dir), "log", "km.log"))
}

// preflight finds out what would fail later, before anything is started.
func (l *laptop) preflight(ctx context.Context, c *common) (err error) {
	l.plane.StateDir, l.plane.NodeRootDir = l.dir, filepath.Join(string(l.dir), "nodes")
	if err := l.planMachines(); err != nil {
		return err
	}
	if err := advertise(&l.plane); err != nil {
		return err
	}
	loopback := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	for _, p := range []struct{ flag, address string }{
		{"--secure-port", net.JoinHostPort(l.plane.BindAddress, strconv.Itoa(l.plane.SecurePort))}, {"--etcd-port", loopback(l.plane.EtcdPort)},
		{"--mesos-port", loopback(l.mesos.Port)}, {"--mesos-port (the agent listens on the port after it)", l.agentAddress()},
		{"--status-address", l.schedule.status.Address},
	} {
		if p.address == "" {
			continue
		}
		listener, err := net.Listen("tcp", p.address)
		if err != nil {
			return fmt.Errorf("cannot use %s: %w; stop what uses it, or give another %s", p.address, err, p.flag)
		}
		listener.Close()
	}
	l.mesos.WorkDir = filepath.Join(string(l.dir), "mesos")
	km, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program's file, which the agent is to run: %w", err)
	}
	l.schedule.scheduler.KMPath = km
	err = errors.Join(l.plane.Validate(), l.schedule.scheduler.Validate())
	if err == nil {
		err = l.mesos.Validate() // last, as it makes a directory
	}
	if err != nil {
		return err
	}
	l.dns, err = dnsOf(ctx, c, l.plane, l.dns)
	return err
}

// findEngine says which Docker Engine the cluster is to use; "" if there is none and nobody asked for a certain one.
func (l *laptop) findEngine(ctx context.Context) (found string, err error) {
	l.plane.DockerHost = l.dockerHost
	if l.dockerHost == "" {
		l.plane.DockerHost = client.DefaultDockerHost
	}
	version, err := askEngine(ctx, l.plane.DockerHost)
	if err == nil {
		return version + " at " + l.plane.DockerHost, nil
	}
	if l.dockerHost != "" {
		return "", fmt.Errorf("the Docker Engine at %s does not answer: %w; start it, or give another --docker-host", l.dockerHost, err)
	}
	return "", nil
}

// runEngine runs a Docker Engine below the state directory.
func (l *laptop) runEngine(ctx context.Context, ready func(string)) error {
	e, err := engine.Start(ctx, engine.Config{Dir: filepath.Join(string(l.dir), "engine")})
	if err != nil {
		return err
	}
	l.plane.DockerHost = e.Host()
	ready("started for this cluster at " + e.Host())
	<-ctx.Done()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return e.Stop(last)
}

func askEngine(ctx context.Context, host string) (version string, err error) {
	docker, err := client.NewClientWithOpts(client.WithHost(host), client.WithAPIVersionNegotiation())
	if err != nil {
		return "", err
	}
	defer docker.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	v, err := docker.ServerVersion(ctx)
	return v.Version, err
}

func (l *laptop) runControlPlane(ctx context.Context, ready func(string)) error {
	l.plane.Ready = func(url string) { ready("Kubernetes " + api.KubernetesVersion + " answers at " + url) }
	return controlplane.Run(ctx, l.plane)
}

// runDNS is ready when a server is in the service, or at once if there is none to run.
func (l *laptop) runDNS(ctx context.Context, ready func(string)) error {
	if l.dns.Count == 0 {
		ready("none on this machine")
	}
	return l.dns.Run(ctx, logrus.StandardLogger().Out, func() {
		ready(fmt.Sprintf("names in %s resolve at %s", l.plane.ClusterDomain, strings.Join(l.plane.DNSService(), " and ")))
	})
}

func (l *laptop) runMesos(ctx context.Context, ready func(string)) error {
	if err := l.planAgents(); err != nil {
		return err
	}
	cluster, err := localmesos.Start(ctx, l.mesos)
	if err != nil {
		return err
	}
	l.schedule.mesos.Masters = []string{cluster.MasterAddr()}
	ready("the master answers at http://" + cluster.MasterAddr())
	problem := l.watchMachines(ctx, cluster)
	cluster.Stop()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	// An earlier km up may have been killed with its minion, and this one may end before there was another.
	return errors.Join(problem, l.cleanUp(last))
}

// runScheduler is ready when the nodes are.
func (l *laptop) runScheduler(ctx context.Context, ready func(string)) error {
	watching, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		switch nodes := awaitNodes(watching, l.dir.AdminKubeconfig(), l.nodes.Count); len(nodes) {
		case 0:
		case 1:
			ready("node " + nodes[0] + " is ready")
		default:
			ready("nodes " + strings.Join(nodes, ", ") + " are ready")
		}
	}()
	defer func() { cancel(); <-watched }()
	for {
		err := l.schedule.run(ctx, l.dir)
		if !errors.Is(err, scheduler.ErrLost) || ctx.Err() != nil {
			return err
		}
		// There is no other scheduler: the machine was asleep, or so busy that the lease ran out.
		logrus.Warn("the scheduler was held up for so long that it lost its lead, and is started again")
	}
}

// awaitNodes returns the names of the nodes that are Ready once there are so many, or none when ctx ends before that.
func awaitNodes(ctx context.Context, kubeconfig string, count int) (ready []string) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil
	}
	kubernetes, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		nodes, err := kubernetes.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		ready = nil
		for i := 0; err == nil && i < len(nodes.Items); i++ {
			for _, condition := range nodes.Items[i].Status.Conditions {
				if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
					ready = append(ready, nodes.Items[i].Name)
				}
			}
		}
		if len(ready) >= count {
			return ready
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
