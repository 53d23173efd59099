package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/controlplane"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/dns"
	"github.com/k8sm/k8sm/contrib/gateway"
	"github.com/k8sm/k8sm/contrib/localmesos"
	"github.com/k8sm/k8sm/contrib/logs"
	"github.com/k8sm/k8sm/contrib/metrics"
	"github.com/k8sm/k8sm/contrib/ui"
	"github.com/k8sm/k8sm/contrib/up"
	"github.com/k8sm/k8sm/contrib/up/engine"
	"github.com/k8sm/k8sm/contrib/up/machines"
)

func upCommand(c *common) *cobra.Command {
	var l laptop
	cmd := &cobra.Command{
		Use: "up", Short: "Run a whole cluster on this machine, to try it", Args: cobra.NoArgs,
		Long: `Runs a cluster with one node until Ctrl-C: etcd, the Kubernetes control plane, a local Mesos with one agent and the scheduler in
this process, and a Docker Engine if none answers. Needs root. All state is in --state-dir: the next km up with the same
directory continues the same cluster. The log is log/km.log in it.

--nodes=N runs N agents, node-1, node-2 and so on. Each has its own network namespace, IP address and Docker Engine, like a
separate machine. "km node" cuts them off, slows them down and stops them.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if l.nodes.Count > 1 && cmd.Flags().Changed("docker-host") {
				return usage(errors.New("cannot use --docker-host with --nodes: km up starts a Docker Engine for each of several nodes"))
			}
			dir, err := filepath.Abs(c.stateDir) // agents and containers get paths below it
			if err != nil {
				return fmt.Errorf("cannot find %s: %w", c.stateDir, err)
			}
			l.dir = statedir.Dir(dir)
			if err := l.check(c); err != nil {
				return err
			}
			return serve(c, func(ctx context.Context) error { return l.run(ctx, c, cmd.OutOrStdout()) })
		},
	}
	l.addFlags(cmd.Flags())
	return cmd
}

// laptop is a whole cluster on one machine.
type laptop struct {
	plane      controlplane.Config
	dns        dns.Replicas
	metrics    metrics.Beside
	logs       logs.Beside
	compat     gateway.Config
	page       ui.Config
	mesos      localmesos.Config
	schedule   schedule
	dir        statedir.Dir
	dockerHost string
	nodes      machines.Config
	machines   *machines.Machines // nil for one node, which is this machine itself
	mesosUp    chan struct{}      // closed when the local Mesos runs
	ready      []string           // names of the nodes, once they are ready
	link       string             // to the web page
}

// addFlags adds the flags of the parts, except those that `km up` sets itself.
func (l *laptop) addFlags(fs *pflag.FlagSet) {
	parts := pflag.NewFlagSet("parts", pflag.ContinueOnError)
	l.plane.AddFlags(parts)
	l.dns.AddFlags(parts, 1)
	l.metrics.AddFlags(parts)
	l.logs.AddFlags(parts)
	l.compat.AddFlags(parts)
	l.page = ui.Config{Prefix: "ui-", Address: ui.DefaultAddress}
	l.page.AddFlags(parts)
	l.schedule.addFlags(parts)
	bind := parts.Lookup("bind-address")
	l.plane.BindAddress, bind.DefValue = net.IPv4zero.String(), net.IPv4zero.String()
	bind.Usage += "; pods cannot reach an API server on loopback"
	parts.Lookup("advertise-address").Usage = advertiseUsage
	for _, name := range []string{"join", "token-file", "change-settings", "etcd-servers", "etcd-cafile", "etcd-certfile", "etcd-keyfile", "insecure-etcd",
		"node-root-dir", "docker-host", "km-path", "artifact-address", "mesos-master", "mesos-connect-timeout", "mesos-principal", "mesos-secret-file", "mesos-ca-file", "mesos-cert-file", "mesos-key-file",
		"ui-status-address", "tls-cert-file", "tls-private-key-file", "client-ca-file", "enable-aggregator-routing"} {
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
	fs.IntVar(&l.nodes.Count, "nodes", 1, "`number` of nodes. 1 makes this machine the node; with more, each node is a network namespace with its own agent, Docker Engine and kubelet")
	fs.StringVar(&l.nodes.CIDR, "node-cidr", "", "with --nodes: CIDR `range` of the nodes' IP addresses; for dual-stack, IPV4-RANGE,IPV6-RANGE. This machine gets the first address (default "+
		machines.DefaultCIDR+", and "+machines.DefaultCIDR6+" if pods have IPv6 addresses)")
	if certPath := fs.Lookup("docker-cert-path"); os.Getenv("DOCKER_CERT_PATH") != "" {
		certPath.DefValue = os.Getenv("DOCKER_CERT_PATH")
		l.plane.Minions.DockerCertPath = certPath.DefValue
	}
	fs.StringVar(&l.dockerHost, "docker-host", os.Getenv("DOCKER_HOST"), "address of the Docker Engine to use (default: this machine's if it answers, else km up starts one)")
}

// run starts the cluster, prints how to use it, and stops it when ctx ends.
func (l *laptop) run(ctx context.Context, c *common, out io.Writer) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("km up creates network devices and starts containers: run it as root")
	}
	// A second cluster would use the same network devices, rules and node name as the first.
	unlock, err := statedir.Dir("/run/k8sm").Lock("up")
	if err != nil {
		return fmt.Errorf("cannot run more than one km up on a machine: %w", err)
	}
	defer func() { _ = unlock() }()
	if err := errors.Join(l.preflight(ctx), l.dir.RemoveRunning()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.dir.RemoveRunning()) }()
	log := &lumberjack.Logger{Filename: l.logFile(), MaxSize: 50, MaxBackups: 3}
	defer log.Close()
	logrus.SetOutput(log)

	context.AfterFunc(ctx, func() {
		fmt.Fprintf(out, "stopping the cluster; its state stays in %s (Ctrl-C again ends km at once and leaves pods running)\n", l.dir)
	})
	machines, err := l.machineParts(ctx, out)
	if err != nil {
		return err
	}
	return up.Run(ctx, out, l.parts(machines), func() error {
		err := l.dir.WriteRunning(l.running())
		if err == nil {
			l.tell(out)
		}
		return err
	})
}

// parts returns all parts, in the order in which they stop, last first. What only nodes and pods need starts while the control plane does, or
// beside the scheduler.
func (l *laptop) parts(machines []up.Part) []up.Part {
	l.mesosUp = make(chan struct{})
	parts := append(machines, up.Part{Name: "control plane", Run: l.runControlPlane, Together: len(machines) > 0}, up.Part{Name: "DNS", Run: l.runDNS},
		up.Part{Name: "metrics", Run: l.runMetrics, Beside: true, Together: true}, up.Part{Name: "logs", Run: l.runLogs, Beside: true, Together: true})
	if l.compat.Enabled() {
		parts = append(parts, up.Part{Name: "v1beta1", Run: l.runGateway, Beside: true, Together: true})
	}
	parts = append(parts, up.Part{Name: "local Mesos", Run: l.runMesos, Together: true}, up.Part{Name: "scheduler", Run: l.runScheduler, Together: true})
	if l.page.Enabled() {
		parts = append(parts, up.Part{Name: "web page", Run: l.runPage})
	}
	return parts
}

// logFile is the log of all parts.
func (l *laptop) logFile() string { return filepath.Join(string(l.dir), "log", "km.log") }

// running describes the running cluster for other programs.
func (l *laptop) running() statedir.Running {
	r := statedir.Running{
		PID: os.Getpid(), Version: api.Version, Kubeconfig: l.dir.AdminKubeconfig(), MesosMaster: "http://" + l.schedule.mesos.Masters[0],
		MesosPrincipal: l.schedule.mesos.Principal, MesosSecretFile: l.schedule.mesos.SecretFile, Status: l.schedule.status.Address,
	}
	for _, name := range l.ready {
		host := l.plane.DockerHost
		if l.machines != nil {
			host = "unix://" + machines.EngineSocket(string(l.dir), name)
		}
		r.Nodes = append(r.Nodes, statedir.RunningNode{Name: name, DockerHost: host})
	}
	return r
}

// machineParts returns the parts that the nodes need: machines and Docker Engines.
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
	l.plane.DockerHost = engine.Host(l.engineDir())
	return []up.Part{{Name: "Docker Engine", Run: l.runEngine}}, nil
}

func (l *laptop) tell(out io.Writer) {
	km := "km"
	if path, err := os.Executable(); err == nil {
		km = path
	}
	km = kmFor(l.dir, km)
	if l.link != "" {
		fmt.Fprintf(out, "\nWeb: %s\n     (the link works once; the browser warns of the certificate, which is the cluster's)\n", l.link)
	}
	fmt.Fprintf(out, `
The cluster is up. Its kubeconfig is %s
Try, in another terminal:

  %s kubectl get nodes -o wide
  %s kubectl apply -f POD.yaml
  %s etcdctl get --prefix /registry/minions

Ctrl-C stops it. Its log is %s

`, l.dir.AdminKubeconfig(), km, km, km, l.logFile())
}

// check checks the flags and completes them. It changes nothing on the machine.
func (l *laptop) check(c *common) error {
	l.plane.StateDir, l.plane.NodeRootDir, l.plane.DockerHost = l.dir, filepath.Join(string(l.dir), "nodes"), l.dockerHost
	l.plane.Minions.LogFormat = string(c.logFormat)
	l.mesos.WorkDir = filepath.Join(string(l.dir), "mesos")
	km, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find the file of this program, which the agent runs: %w", err)
	}
	l.schedule.scheduler.KMPath = km
	if err := usage(checkPorts(map[string]int{"mesos-port": l.mesos.Port}), l.checkNodes()); err != nil {
		return err
	}
	if err := advertise(&l.plane); err != nil {
		return err
	}
	l.plane.ClusterName = l.schedule.etcd.Name
	l.dns = dnsOf(c, l.plane, l.dns)
	l.metrics = metricsOf(c, &l.plane, l.dns, l.metrics)
	l.logs = logsOf(c, &l.plane, l.logs)
	l.logs.Files["km"] = l.logFile()
	l.compat.StateDir, l.plane.ServingNames = l.dir, slices.Concat(l.compat.Names(), l.page.Names())
	l.page.Scheduler = func(context.Context) (string, error) { return l.schedule.status.Address, nil }
	return usage(checkPlane(l.plane), l.dns.Validate(), l.metrics.Validate(), l.logs.Validate(), l.compat.Validate(), l.page.Validate(), l.schedule.checkParts())
}

// preflight checks ports and leftovers before anything starts.
func (l *laptop) preflight(ctx context.Context) error {
	if err := l.findMachines(); err != nil {
		return err
	}
	loopback := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	for _, p := range []struct{ flag, address string }{
		{"--secure-port", net.JoinHostPort(l.plane.BindAddress, strconv.Itoa(l.plane.SecurePort))}, {"--etcd-port", loopback(l.plane.EtcdPort)},
		{"--mesos-port", loopback(l.mesos.Port)}, {"--mesos-port (the agent listens on the port after it)", l.agentAddress()},
		{"--status-address", l.schedule.status.Address}, {"--v1beta1-address", l.compat.Address}, {"--ui-address", l.page.Address},
	} {
		if p.address == "" {
			continue
		}
		listener, err := net.Listen("tcp", p.address)
		if err != nil {
			return fmt.Errorf("cannot use %s: %w; stop the program that uses it, or give another %s", p.address, err, p.flag)
		}
		listener.Close()
	}
	if err := usage(l.mesos.Validate()); err != nil { // not in check: it makes a directory
		return err
	}
	return errors.Join(checkDNS(ctx, l.dns), l.metrics.Free(), l.logs.Free())
}
