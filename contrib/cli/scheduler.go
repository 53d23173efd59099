package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/certfile"
	"github.com/k8sm/k8sm/api/falcon"
	"github.com/k8sm/k8sm/api/protobuf"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/assigner"
	"github.com/k8sm/k8sm/minion/supervise"
	"github.com/k8sm/k8sm/scheduler/artifact"
	"github.com/k8sm/k8sm/scheduler/kube"
	"github.com/k8sm/k8sm/scheduler/mesos"
	"github.com/k8sm/k8sm/scheduler/run"
	"github.com/k8sm/k8sm/scheduler/status"
)

func schedulerCommand(c *common) *cobra.Command {
	var s schedule
	cmd := &cobra.Command{
		Use: "scheduler", Short: "Run the Mesos framework that schedules pods", Args: cobra.NoArgs,
		Long: `Subscribes to a Mesos master as a framework, registers a node for each agent that sends an offer, and launches each pending pod as
a task. Any number of schedulers may run; one of them leads. --state-dir has the kubeconfig and etcd's address that km apiserver
wrote; --kubeconfig and --etcd-servers replace them.`,
		RunE: func(*cobra.Command, []string) error {
			if err := usage(s.check()); err != nil {
				return err
			}
			return serve(c, func(ctx context.Context) error {
				s.notify = c.notify
				return s.run(ctx, c.dir())
			})
		},
	}
	s.addFlags(cmd.Flags())
	cmd.Flags().StringVar(&s.kubeconfig, "kubeconfig", "", "kubeconfig `file` for the API server (default: the state directory's)")
	cmd.Flags().StringSliceVar(&s.etcd.Endpoints, "etcd-servers", nil, "URLs of etcd (default: from the state directory)")
	cmd.Flags().StringVar(&s.etcd.CAFile, "etcd-cafile", "", "with --etcd-servers: CA of etcd's certificate")
	cmd.Flags().StringVar(&s.etcd.CertFile, "etcd-certfile", "", "with --etcd-servers: client certificate")
	cmd.Flags().StringVar(&s.etcd.KeyFile, "etcd-keyfile", "", "with --etcd-servers: key of the client certificate")
	cmd.Flags().BoolVar(&s.insecureEtcd, "insecure-etcd", false, "allow http:// in --etcd-servers: whoever sees or changes that traffic has the whole cluster")
	return cmd
}

// schedule is the configuration of km scheduler and its parts.
type schedule struct {
	scheduler  run.Config
	mesos      mesos.Config
	status     status.Config
	artifact   artifact.Config
	falcon     api.Falcon // of the cluster
	kubeconfig string
	etcd       state.Config
	// insecureEtcd allows an etcd without TLS.
	insecureEtcd bool
	clocks       prometheus.Collector // tells of the API servers' clocks
	notify       notifier             // hears when the scheduler waits for the lead; km up's tells nobody
}

func (s *schedule) addFlags(fs *pflag.FlagSet) {
	s.scheduler.AddFlags(fs)
	s.mesos.AddFlags(fs)
	s.status.AddFlags(fs)
	s.artifact.AddFlags(fs)
	fs.StringVar(&s.etcd.Name, "cluster-name", defaultName, "name of the cluster; several clusters can share an etcd and a Mesos, and each agent runs pods of one of them")
}

// check checks the flags of km scheduler.
func (s *schedule) check() error {
	if err := s.checkParts(); err != nil {
		return err
	}
	if err := checkEtcd(s.etcd, s.insecureEtcd); err != nil {
		return err
	}
	if err := checkFiles(named{"kubeconfig", s.kubeconfig}); err != nil {
		return err
	}
	_, err := mesos.New(s.mesos)
	return err
}

// checkParts checks the flags that km up has too.
func (s *schedule) checkParts() error {
	if s.etcd.Name == "" || strings.Contains(s.etcd.Name, "/") {
		return fmt.Errorf("cannot use --cluster-name=%s: give a name without a slash", s.etcd.Name)
	}
	if err := checkAddresses(named{"status-address", s.status.Address}, named{"artifact-address", s.artifact.Address}); err != nil {
		return err
	}
	if err := errors.Join(s.status.Validate(), s.artifact.Validate()); err != nil {
		return err
	}
	if err := checkFiles(named{"tls-cert-file", s.status.CertFile}, named{"tls-private-key-file", s.status.KeyFile},
		named{"client-ca-file", s.status.ClientCAFile}); err != nil {
		return err
	}
	flags := s.scheduler
	flags.Roles = s.mesos.Roles
	if flags.KMPath == "" {
		flags.Artifact.URL = "http://" + s.artifact.Address // run sets the real one
	}
	return flags.Validate()
}

// run schedules until ctx ends.
func (s *schedule) run(ctx context.Context, dir statedir.Dir) error {
	if len(s.etcd.Endpoints) == 0 {
		etcd, err := dir.SchedulerEtcd()
		if err != nil {
			return fmt.Errorf("%w: start a control plane with km apiserver, or give --state-dir, or --etcd-servers and --kubeconfig", err)
		}
		s.etcd = stateConfig(etcd, s.etcd.Name)
	}
	if s.kubeconfig == "" {
		s.kubeconfig = dir.SchedulerKubeconfig()
	}
	config, err := schedulerClient(s.kubeconfig)
	if err != nil {
		return err
	}
	ca := currentCA(config.TLSClientConfig)
	if _, err := ca(); err != nil {
		return fmt.Errorf("cannot read the CA of the API server: %w", err)
	}
	servers, err := reachAPIServers(config, dir)
	if err != nil {
		return err
	}
	kubernetes, err := protobuf.NewClient(config)
	if err != nil {
		return fmt.Errorf("cannot create a client of the API server: %w", err)
	}
	reviewer, err := protobuf.NewClient(slow(config))
	if err != nil {
		return fmt.Errorf("cannot create a client of the API server: %w", err)
	}
	stopChecks := keepAPIServers(ctx, servers, kubernetes)
	defer stopChecks()
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
	if err := checkOwner(ctx, store, dir); err != nil {
		return err
	}
	if err := s.readMinionConfig(ctx, kubernetes); err != nil {
		return err
	}
	s.scheduler.Version, s.scheduler.Kubelet = api.Version, api.KubernetesVersion
	s.scheduler.Roles, s.scheduler.Revocable = s.mesos.Roles, s.mesos.Revocable
	s.scheduler.Cluster, s.scheduler.APIServer, s.scheduler.CA = s.etcd.Name, config.Host, ca
	s.scheduler.APIServers = servers.Servers
	versions, err := newServerVersions(config, servers.Servers)
	if err != nil {
		return err
	}
	s.clocks = servers
	cluster := kube.New(kubernetes)
	cluster.AskVersions(versions.ask)
	parts := run.Parts{Master: master, Cluster: cluster, Store: store, Tokens: cluster, Codec: mesos.Codec{},
		Addresses: assigner.NewPublisher(store.Folder(assigner.Folder), kubernetes, config.Host, master.Addresses)}
	shows := status.Shows{Mesos: master, Reviewer: reviewer}
	if pusher := s.pusher(); pusher != nil {
		parts.Falcon = pusher
	}
	if s.scheduler.KMPath != "" {
		return s.runBesideStatus(ctx, dir, parts, shows)
	}
	program, err := artifact.Listen(s.artifact, s.mesos.Peers())
	if err != nil {
		return err
	}
	s.scheduler.Artifact = run.Artifact{URL: program.URL(), SHA256: program.SHA256(), BLAKE2b: program.BLAKE2b()}
	logrus.WithField("url", program.URL()).Info("serving km to agents")
	return beside(ctx, program.Run, func(ctx context.Context) error { return s.runBesideStatus(ctx, dir, parts, shows) })
}

// currentCA returns the CAs of a configuration: those that are in its file at each call, or its data.
func currentCA(config rest.TLSClientConfig) func() ([]byte, error) {
	return func() ([]byte, error) {
		if len(config.CAData) > 0 {
			return config.CAData, nil
		}
		return os.ReadFile(config.CAFile)
	}
}

// checkOwner returns an error if etcd belongs to another cluster than the state directory. A scheduler whose certificates are elsewhere
// may have no CA there.
func checkOwner(ctx context.Context, store *state.Store, dir statedir.Dir) error {
	ca, err := dir.CACertificates()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = store.CheckOwner(ctx, state.AuthoritiesOf(ca))
	if errors.Is(err, state.ErrOtherCluster) {
		return fmt.Errorf("cannot use etcd: %w; copy %s from a control plane of this etcd's cluster, with the scheduler's other files, or use another etcd",
			err, dir.CA())
	}
	return err
}

// schedulerClient returns the configuration of the scheduler's client. It limits no requests: each pod of a burst needs a binding, and each
// of thousands of nodes without a kubelet a lease, which must not wait for each other. The API server limits the scheduler itself, by
// what it has to do (https://kubernetes.io/docs/concepts/cluster-administration/flow-control/).
func schedulerClient(kubeconfig string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("cannot read the kubeconfig: %w", err)
	}
	config.QPS = -1
	return config, nil
}

// slow returns the configuration with client-go's default limits, for what strangers can make the scheduler ask.
func slow(config *rest.Config) *rest.Config {
	limited := rest.CopyConfig(config)
	limited.QPS, limited.Burst = rest.DefaultQPS, rest.DefaultBurst
	return limited
}

// pusher returns where the scheduler's figures go; nil for nowhere. A target that this version cannot read does not keep pods waiting.
func (s *schedule) pusher() *falcon.Pusher {
	if s.falcon.Target == "" {
		return nil
	}
	target, err := falcon.ParseTarget(s.falcon.Target)
	if err != nil {
		logrus.WithError(err).Error("cannot send metrics to open-falcon: --falcon of the control plane names no target for this version of km")
		return nil
	}
	return falcon.New(falcon.Config{Target: target, Endpoint: s.etcd.Name, Step: time.Duration(s.falcon.Step) * time.Second})
}

// readMinionConfig waits for the cluster's configuration of minions, and takes open-falcon's target from it. The core learns the rest,
// and its changes, from scheduler/kube.
func (s *schedule) readMinionConfig(ctx context.Context, cluster kubernetes.Interface) error {
	return supervise.UntilDone(ctx, "cannot read the configuration of minions yet", func(ctx context.Context) error {
		object, err := cluster.CoreV1().ConfigMaps(api.MinionConfigNamespace).Get(ctx, api.MinionConfigName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		minions, err := api.ReadMinionConfig(object.Data)
		if err != nil {
			return err
		}
		s.falcon = minions.Falcon
		return nil
	})
}

// beside runs a server until the role ends, and returns when both have ended.
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

// certFiles are the scheduler's certificates, as far as they are in files of their own.
func (s *schedule) certFiles() map[string]string {
	files := map[string]string{"scheduler-server": s.status.CertFile, "scheduler-etcd-client": s.etcd.CertFile}
	if config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig); err == nil {
		files["scheduler"] = config.CertFile
	}
	return files
}

// runBesideStatus runs the scheduler, and its status server unless --status-address is empty.
func (s *schedule) runBesideStatus(ctx context.Context, dir statedir.Dir, parts run.Parts, shows status.Shows) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cannot find this machine's name: %w", err)
	}
	s.scheduler.Identity = status.SchedulerName(host, os.Getpid(), "")
	schedule := func(ctx context.Context) error {
		s.notify.ready()
		return run.Run(ctx, s.scheduler, parts)
	}
	if s.status.Address == "" {
		return schedule(ctx)
	}
	if err := errors.Join(s.status.Validate(), s.artifact.Validate()); err != nil {
		return err
	}
	if s.status.CertFile == "" {
		s.status.CertFile, s.status.KeyFile = dir.Pair(statedir.SchedulerServer)
	}
	if s.status.ClientCAFile == "" {
		s.status.ClientCAFile = dir.CA()
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(certfile.Metrics(s.certFiles()), s.clocks)
	parts.Metrics, parts.Window, parts.Traces = metrics, run.NewWindow(), run.NewTraces()
	shows.Scheduler, shows.Metrics, shows.Traces = parts.Window, metrics, parts.Traces
	server, err := status.Listen(s.status, shows)
	if err != nil {
		return err
	}
	s.scheduler.Identity = status.SchedulerName(host, os.Getpid(), server.Reachable())
	logrus.WithField("address", server.Addr()).Info("serving the scheduler's status")
	return beside(ctx, server.Run, schedule)
}
