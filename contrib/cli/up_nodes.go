package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/client"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/contrib/localmesos"
	"github.com/k8sm/k8sm/contrib/up/engine"
	"github.com/k8sm/k8sm/contrib/up/machines"
	"github.com/k8sm/k8sm/minion"
)

// checkNodes decides on the machines of several nodes.
func (l *laptop) checkNodes() (err error) {
	l.nodes.Cluster, l.nodes.Dir = l.schedule.etcd.Name, string(l.dir)
	l.nodes.Ports = []machines.Port{{Protocol: "tcp", Number: l.plane.SecurePort}}
	for i := range l.dns.Count {
		l.nodes.Ports = append(l.nodes.Ports, machines.Port{Protocol: "udp", Number: l.dns.Port + i}, machines.Port{Protocol: "tcp", Number: l.dns.Port + i})
	}
	l.nodes.Closed = map[string]string{"--cluster-cidr": l.plane.ClusterCIDR, "--service-cluster-ip-range": l.plane.ServiceCIDR}
	if l.nodes.Count == 1 {
		return nil
	}
	if l.machines, err = machines.New(l.nodes); err != nil {
		return err
	}
	if net.ParseIP(l.plane.BindAddress).IsLoopback() {
		return fmt.Errorf("cannot use --bind-address=%s with --nodes: several nodes reach no API server on loopback", l.plane.BindAddress)
	}
	l.plane.AggregatorRouting = true // this machine is no node, and has routes to the pods of all
	if l.plane.AdvertiseAddress == "" {
		l.plane.AdvertiseAddress = l.machines.Gateway.String()
	}
	return nil
}

// findMachines refuses to run other machines than those that may be left of a km up that was killed.
func (l *laptop) findMachines() error {
	left, err := machines.Left(string(l.dir))
	if err != nil {
		return err
	}
	if left != nil && (l.nodes.Count == 1 || !left.Same(l.nodes)) {
		return fmt.Errorf("the last km up here was killed, and its nodes are still there: start it again with %s and stop it by Ctrl-C, then start this", left.Flags())
	}
	if l.machines == nil {
		return nil
	}
	if err := l.machines.Check(); err != nil {
		return err
	}
	others, err := minion.Left(l.nodes.Cluster, l.plane.NodeRootDir)
	others = slices.DeleteFunc(others, func(node string) bool { _, err := l.machines.Find(node); return err == nil })
	if err == nil && len(others) > 0 {
		err = fmt.Errorf("the last km up here was killed, and its node %s may still run pods: start it again with --nodes=1 and stop it by Ctrl-C, then start this", others[0])
	}
	return err
}

// agentAddress is where the agent of one node listens; those of several have addresses of their own.
func (l *laptop) agentAddress() string {
	if l.machines != nil {
		return ""
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(l.mesos.Port+1))
}

// runMachines makes the machines of several nodes. It unplugs nobody and starts what a person has stopped.
func (l *laptop) runMachines(ctx context.Context, ready func(string)) error {
	if err := l.machines.Up(); err != nil {
		return err
	}
	if err := l.startMachines(); err != nil {
		return err
	}
	var problems []error
	for _, machine := range l.machines.List {
		problems = append(problems, l.machines.GuardAgent(machine, l.mesos.Port+1))
	}
	if err := errors.Join(problems...); err != nil {
		return errors.Join(err, l.machines.Down())
	}
	stopForwarding, err := l.forwardResolvers(ctx)
	if err != nil {
		stopForwarding()
		return errors.Join(err, l.machines.Down())
	}
	ready(fmt.Sprintf("%d network namespaces, from %s to %s", l.nodes.Count, l.machines.List[0].Address, l.machines.List[l.nodes.Count-1].Address))
	<-ctx.Done()
	stopForwarding()
	return l.machines.Down()
}

// forwardResolvers has programs on the machines reach the DNS servers of this one that listen on its loopback.
func (l *laptop) forwardResolvers(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	waits := []func(){cancel}
	for _, machine := range l.machines.List {
		wait, forwardErr := machine.ForwardResolvers(ctx)
		err, waits = errors.Join(err, forwardErr), append(waits, wait)
	}
	return func() {
		for _, wait := range waits {
			wait()
		}
	}, err
}

// startMachines undoes what people have done to machines: what is stopped can neither start nor end.
func (l *laptop) startMachines() error {
	var problems []error
	for _, machine := range l.machines.List {
		problems = append(problems, machine.Start())
	}
	return errors.Join(problems...)
}

// engineConfig is that of a machine's Docker Engine.
func (l *laptop) engineConfig(machine *machines.Machine) engine.Config {
	return engine.Config{Dir: machines.EngineDir(string(l.dir), machine.Name), Enter: machine.Enter}
}

// runEngines runs a Docker Engine on each machine.
func (l *laptop) runEngines(ctx context.Context, ready func(string)) error {
	engines := make([]*engine.Engine, len(l.machines.List))
	var starting errgroup.Group
	for i, machine := range l.machines.List {
		starting.Go(func() (err error) {
			engines[i], err = engine.Start(ctx, l.engineConfig(machine))
			return err
		})
	}
	err := starting.Wait()
	if err == nil {
		ready(fmt.Sprintf("%d started for this cluster, such as %s", len(engines), engines[0].Host()))
		<-ctx.Done()
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	var stopping errgroup.Group
	for _, e := range engines {
		if e != nil {
			stopping.Go(func() error { return e.Stop(last) })
		}
	}
	return errors.Join(err, stopping.Wait())
}

// planAgents tells the local Mesos what its agents have for themselves. Each one's executors are told by Docker's own variable
// which Engine is theirs, as an operator would: an agent passes nothing of its own environment.
func (l *laptop) planAgents() (err error) {
	given := l.mesos.ExecutorEnvironmentVariables
	if l.machines == nil {
		l.mesos.ExecutorEnvironmentVariables, err = executorEnvironment(given, l.plane.DockerHost)
		return err
	}
	for _, machine := range l.machines.List {
		environment, err := executorEnvironment(given, "unix://"+machines.EngineSocket(string(l.dir), machine.Name))
		if err != nil {
			return err
		}
		l.mesos.Own = append(l.mesos.Own, localmesos.Agent{
			Hostname: machine.Name, IP: machine.Address.String(), ExecutorEnvironmentVariables: environment, Enter: machine.Enter,
		})
	}
	return nil
}

// executorEnvironment adds the address of a Docker Engine to what --executor-environment-variables gives.
func executorEnvironment(given, dockerHost string) (string, error) {
	variables := map[string]string{}
	if given != "" {
		if err := json.Unmarshal([]byte(given), &variables); err != nil {
			return "", fmt.Errorf("cannot read --executor-environment-variables: %w", err)
		}
	}
	variables[client.EnvOverrideHost] = dockerHost
	data, err := json.Marshal(variables)
	return string(data), err
}

// watchMachines waits until ctx ends. Until then it keeps this machine's routes to pods, and cuts those agents off from the
// master whose machines are cut off: their messages do not pass the network.
func (l *laptop) watchMachines(ctx context.Context, cluster *localmesos.Cluster) error {
	if l.machines == nil {
		<-ctx.Done()
		return nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", l.dir.AdminKubeconfig())
	if err != nil {
		return fmt.Errorf("cannot read how to reach the API server: %w", err)
	}
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("cannot make a client of the API server: %w", err)
	}
	group, watching := errgroup.WithContext(ctx)
	group.Go(func() error { return l.machines.Route(watching, api) })
	group.Go(func() error {
		return l.machines.Watch(watching, func(i int, connected bool) {
			if connected {
				cluster.HealAgent(i)
			} else {
				cluster.CutAgent(i)
			}
		})
	})
	return errors.Join(group.Wait(), l.startMachines())
}

// cleanUp removes what minions left on the machines.
func (l *laptop) cleanUp(ctx context.Context) error {
	if l.machines == nil {
		return minion.CleanUp(ctx, l.schedule.etcd.Name, l.plane.NodeRootDir, "")
	}
	problems := make([]error, len(l.machines.List))
	var cleaning errgroup.Group
	for i, machine := range l.machines.List {
		cleaning.Go(func() error {
			cmd := exec.CommandContext(ctx, l.schedule.scheduler.KMPath, cleanUpName, l.schedule.etcd.Name, l.plane.NodeRootDir, machine.Name)
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			err := machine.Enter(cmd.Start)
			if err == nil {
				err = cmd.Wait()
			}
			if err != nil {
				problems[i] = fmt.Errorf("cannot remove what is left on node %s: %w: %s", machine.Name, err, strings.TrimSpace(out.String()))
			}
			return nil
		})
	}
	_ = cleaning.Wait() // the errors are in problems
	return errors.Join(problems...)
}
