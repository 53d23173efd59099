package minion

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api/falcon"
	"github.com/k8sm/k8sm/executor/kube"
	"github.com/k8sm/k8sm/minion/cri"
	"github.com/k8sm/k8sm/minion/figures"
	"github.com/k8sm/k8sm/minion/supervise"
)

// measureTimeout bounds one measurement. It is less than the shortest step.
const measureTimeout = falcon.MinStep * time.Second / 2

// startFalcon starts to send the node's metrics to open-falcon. It returns nil if the cluster has no target for them.
func (n *node) startFalcon(ctx context.Context, pods *kube.Pods) *supervise.Part {
	if n.cluster.Falcon.Target == "" {
		return nil
	}
	return supervise.Start(ctx, "the metrics for open-falcon", func(ctx context.Context) error {
		target, err := falcon.ParseTarget(n.cluster.Falcon.Target)
		if err != nil {
			return fmt.Errorf("cannot use the control plane's --falcon: %w", err)
		}
		pusher := falcon.New(falcon.Config{
			Target: target, Endpoint: n.boot.Node, Step: time.Duration(n.cluster.Falcon.Step) * time.Second, Log: n.log,
		})
		m := meter{machine: figures.NewMachine(), whole: n.cluster.Falcon.Node, usage: n.usage, pods: pods.List, log: n.log}
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return pusher.Run(ctx) })
		group.Go(func() error { return m.run(ctx, pusher) })
		return group.Wait()
	})
}

// usage returns what the node's pods have used.
func (n *node) usage(ctx context.Context) ([]cri.PodUsage, error) {
	server := n.criServer.Load()
	if server == nil {
		return nil, errors.New("the CRI server does not run")
	}
	return server.Usage(ctx)
}

// meter measures a node for open-falcon.
type meter struct {
	figures.Pods
	machine *figures.Machine
	whole   bool // the machine, too
	usage   func(context.Context) ([]cri.PodUsage, error)
	pods    func() []*corev1.Pod
	log     logrus.FieldLogger
	failing bool // the last measurement was incomplete
}

// run pushes a measurement at once and then each step, until ctx ends.
func (m *meter) run(ctx context.Context, pusher *falcon.Pusher) error {
	steps := time.NewTicker(pusher.Step())
	defer steps.Stop()
	for {
		at := time.Now()
		elements, err := m.measure(ctx, at)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !m.failing {
			m.log.WithError(err).Warn("some metrics are missing at open-falcon, until they can be measured")
		}
		m.failing = err != nil
		pusher.Push(at, elements)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-steps.C:
		}
	}
}

// measure returns all that can be measured. The error says what cannot.
func (m *meter) measure(ctx context.Context, at time.Time) ([]falcon.Element, error) {
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	cpus, err := m.machine.CPUs()
	if err != nil {
		return nil, err
	}
	used, err := m.usage(ctx)
	if err != nil {
		err = fmt.Errorf("cannot measure all pods: %w", err)
	}
	elements := m.Elements(used, m.pods(), cpus)
	if m.whole {
		machine, machineErr := m.machine.Elements(at)
		elements, err = append(elements, machine...), errors.Join(err, machineErr)
	}
	return elements, err
}
