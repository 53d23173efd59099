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

// checkNodes checks --nodes and completes the configuration of the machines.
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
		return fmt.Errorf("cannot use --bind-address=%s with --nodes: nodes in network namespaces cannot reach loopback", l.plane.BindAddress)
	}
	if l.plane.AdvertiseAddress == "" {
		l.plane.AdvertiseAddress = l.machines.Gateway.String()
	}
	return nil
}

// findMachines refuses to start if a killed km up left other machines than these.
func (l *laptop) findMachines() error {
	left, err := machines.Left(string(l.dir))
	if err != nil {
		return err
	}
	if left != nil && (l.nodes.Count == 1 || !left.Same(l.nodes)) {
		return fmt.Errorf("the last km up here was killed and left its nodes behind: start it again with %s and stop it by Ctrl-C, then try again", left.Flags())
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
		err = fmt.Errorf("the last km up here was killed and its node %s may still run pods: start it again with --nodes=1 and stop it by Ctrl-C, then try again", others[0])
	}
	return err
}

// agentAddress is where the agent listens if this machine is the node; "" with several nodes, whose agents have their own addresses.
func (l *laptop) agentAddress() string {
	if l.machines != nil {
		return ""
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(l.mesos.Port+1))
}

// runMachines creates the machines of several nodes, and undoes what `km node` did to them before.
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

// forwardResolvers lets programs on the machines reach nameservers that listen on this machine's loopback.
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

// startMachines undoes `km node stop`: stopped processes can neither start nor end.
func (l *laptop) startMachines() error {
	var problems []error
	for _, machine := range l.machines.List {
		problems = append(problems, machine.Start())
	}
	return errors.Join(problems...)
}

// engineConfig returns the configuration of a machine's Docker Engine.
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
		var keeping errgroup.Group
		for _, e := range engines {
			keeping.Go(func() error { e.Keep(ctx, tellEngine); return nil })
		}
		_ = keeping.Wait() // it has no error
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

// planAgents configures each agent of the local Mesos. Executors do not get the agent's environment, so DOCKER_HOST goes into
// --executor-environment-variables, as an operator would set it.
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

// executorEnvironment adds the address of a Docker Engine to --executor-environment-variables.
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

// watchMachines keeps this machine's routes to pods until ctx ends. It also disconnects agents on cut machines from the master:
// both are in this process, so their messages never cross the cut network.
func (l *laptop) watchMachines(ctx context.Context, cluster *localmesos.Cluster) error {
	if l.machines == nil {
		<-ctx.Done()
		return nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", l.dir.AdminKubeconfig())
	if err != nil {
		return fmt.Errorf("cannot read the administrator's kubeconfig: %w", err)
	}
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("cannot create a client of the API server: %w", err)
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
				problems[i] = fmt.Errorf("cannot clean up node %s: %w: %s", machine.Name, err, strings.TrimSpace(out.String()))
			}
			return nil
		})
	}
	_ = cleaning.Wait() // the errors are in problems
	return errors.Join(problems...)
}
