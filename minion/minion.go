package minion

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/docker/docker/client"
	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/executor"
	"github.com/k8sm/k8sm/executor/kube"
	"github.com/k8sm/k8sm/executor/mesos"
	"github.com/k8sm/k8sm/minion/stepout"
)

// MinionServer is the Mesos executor of one agent, and the Kubernetes node that it runs there.
type MinionServer struct {
	cfg      Config
	env      mesos.Config
	agent    *mesos.Agent
	pods     *kube.Pods
	executor *executor.Executor
	traces   *podtrace.Book
	// obstacle says why this machine cannot be a node; nil if it can. The executor reports it and exits.
	obstacle error
	// registered receives the one registration that starts the node.
	registered chan executor.Registration
}

// Run makes a MinionServer from the environment that a Mesos agent gave to this process, and runs it. It blocks until the executor
// leaves, because the agent shuts it down or it has been idle, and returns nil; or until ctx ends. In both cases it stops the node
// in order: nothing that it started remains, and the pods stay in the API server. outside says that a keeper stays in the Mesos
// container in place of this process.
func Run(ctx context.Context, cfg Config, outside bool) error {
	if err := settleEnvironment(); err != nil {
		return err
	}
	cfg.dockerHost, cfg.dockerCertPath = os.Getenv(client.EnvOverrideHost), os.Getenv(client.EnvOverrideCertPath)
	usual, err := cfg.settle(api.MinionConfig{})
	if err != nil {
		return err
	}
	env, err := mesos.ConfigFromEnv()
	if err != nil {
		return err
	}
	obstacle := cfg.stepOut(ctx, env, outside) // takes the environment with it
	if err := mesos.HideToken(); err != nil {
		logrus.WithError(err).Warn("other programs of the agent's user can see the executor's token")
	}
	if err := removeFetched(env.Sandbox); err != nil {
		logrus.WithError(err).Warn("cannot remove the program from the sandbox: it takes 200 MB until the agent removes the sandbox")
	}
	m := New(cfg, env, usual)
	if obstacle != nil {
		logrus.WithError(obstacle).Error("this machine cannot run pods")
		m.obstacle = obstacle
		m.executor.Post(executor.Unfit{Reason: obstacle.Error()})
	}
	return m.Run(ctx)
}

// stepOut returns in a process outside the Mesos container; see stepout.Out.
func (c Config) stepOut(ctx context.Context, env mesos.Config, outside bool) error {
	sandbox, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("cannot find the sandbox: %w", err)
	}
	return stepout.Out(ctx, c.wayOut(env, sandbox, outside))
}

func (c Config) wayOut(env mesos.Config, sandbox string, outside bool) stepout.Config {
	return stepout.Config{
		DockerHost:     firstGiven(c.Given.DockerHost, c.dockerHost, c.engine, api.DefaultDockerHost),
		DockerCertPath: firstGiven(c.Given.DockerCertPath, c.dockerCertPath, c.engineCertPath),
		Container:      filepath.Base(env.Directory), Sandbox: sandbox, Outside: outside,
	}
}

// New returns a MinionServer for the given agent. Call Run once. The settings in usual apply until the cluster's are known.
func New(cfg Config, env mesos.Config, usual api.MinionConfig) *MinionServer {
	m := &MinionServer{
		cfg:        cfg,
		env:        env,
		agent:      mesos.New(env),
		pods:       kube.NewPods(),
		traces:     podtrace.NewBook(tracedPods),
		registered: make(chan executor.Registration, 1),
	}
	m.executor = executor.New(executor.Config{
		Core: executor.CoreConfig{
			Run:             uuid.New(),
			Checkpoint:      env.Checkpoint,
			RecoveryTimeout: env.RecoveryTimeout,
			IdleTimeout:     usual.IdleTimeout.Duration,
		},
		Agent:     tracedAgent{m.agent, m.traces},
		Pods:      m.pods,
		StartNode: func(r executor.Registration) { m.registered <- r },
	})
	return m
}

// Run runs a MinionServer made by New, as the package's Run does.
func (m *MinionServer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	agentCtx, disconnect := context.WithCancel(context.WithoutCancel(ctx))
	defer disconnect()

	var agent, node errgroup.Group
	agent.Go(func() error { return m.agent.Run(agentCtx, traced(m.traces, m.executor.Post)) })
	node.Go(func() error {
		err := m.runNode(ctx)
		if err != nil {
			m.executor.Post(executor.Shutdown{})
		}
		return err
	})
	_ = m.executor.Run(ctx) // its only error is that of ctx
	cancel()
	err := node.Wait()
	disconnect() // only now: the agent takes a disconnected executor for dead, and the containers must be gone by then
	_ = agent.Wait()
	return err
}

// runNode waits for the registration, then runs the node until ctx ends.
func (m *MinionServer) runNode(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case registration := <-m.registered:
		if m.obstacle != nil {
			return nil
		}
		n, err := newNode(m.cfg, m.env, registration, m.traces)
		if err != nil {
			return fmt.Errorf("cannot start the node: %w", err)
		}
		return n.run(ctx, m.pods, m.executor.Post)
	}
}

// stopGrace is how long the stop of a node may take. The agent kills the executor after shutdownGrace.
func stopGrace(shutdownGrace time.Duration) time.Duration {
	const reserve = 500 * time.Millisecond
	return max(shutdownGrace-reserve, reserve)
}
