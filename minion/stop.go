package minion

import (
	"context"
	"errors"
	"fmt"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"golang.org/x/sync/errgroup"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/minion/cri"
)

const (
	// parallelRemovals bounds how many containers are removed at the same time.
	parallelRemovals = 32
	// usualGrace is Kubernetes' default grace period.
	usualGrace = 30 * time.Second
)

// removeContainers stops and removes all containers of this node, and no others. Containers get their pods' grace periods, but no
// longer than until shortly before ctx ends. Sandboxes go last, because stopping containers may need the network. preStop hooks do
// not run: the kubelet, which runs them, has been stopped.
func (n *node) removeContainers(ctx context.Context) error {
	ours := filters.NewArgs(
		filters.Arg("label", api.DockerLabelFramework+"="+n.boot.Cluster),
		filters.Arg("label", api.DockerLabelNode+"="+n.boot.Node))
	list, err := n.docker.ContainerList(ctx, container.ListOptions{All: true, Filters: ours})
	if err != nil {
		return fmt.Errorf("cannot list the node's containers to stop them: %w", err)
	}
	var containers, sandboxes []container.Summary
	for _, c := range list {
		if cri.IsSandbox(c.Labels) {
			sandboxes = append(sandboxes, c)
		} else {
			containers = append(containers, c)
		}
	}
	until := time.Now().Add(usualGrace)
	if deadline, ok := ctx.Deadline(); ok {
		until = deadline.Add(-removalReserve(time.Until(deadline)))
	}
	return errors.Join(
		forEach(containers, -1, func(c container.Summary) error { return n.endContainer(ctx, c, until) }),
		forEach(containers, parallelRemovals, func(c container.Summary) error { return n.removeContainer(ctx, c.ID) }),
		forEach(sandboxes, parallelRemovals, func(c container.Summary) error { return n.removeContainer(ctx, c.ID) }))
}

// removalReserve is the part of the remaining time that is kept for removals.
func removalReserve(left time.Duration) time.Duration { return max(time.Second, left/5) }

// forEach calls do for every container, at most limit at a time (-1 means no limit), and returns all errors.
func forEach(list []container.Summary, limit int, do func(container.Summary) error) error {
	problems := make([]error, len(list))
	var group errgroup.Group
	group.SetLimit(limit)
	for i, c := range list {
		group.Go(func() error {
			problems[i] = do(c)
			return nil
		})
	}
	_ = group.Wait() // the errors are in problems
	return errors.Join(problems...)
}

// endContainer sends the container its stop signal. It waits until the container exits, its grace period passes, or until is
// reached.
func (n *node) endContainer(ctx context.Context, c container.Summary, until time.Time) error {
	if c.State != container.StateRunning {
		return nil
	}
	info, err := n.docker.ContainerInspect(ctx, c.ID)
	if cerrdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot stop container %.12s: %w", c.ID, err)
	}
	err = n.docker.ContainerKill(ctx, c.ID, firstGiven(info.Config.StopSignal, "SIGTERM"))
	if cerrdefs.IsNotFound(err) || cerrdefs.IsConflict(err) { // conflict: it is not running
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot stop container %.12s: %w", c.ID, err)
	}
	grace, ok := cri.GracePeriod(c.Labels)
	if !ok {
		grace = usualGrace
	}
	ctx, cancel := context.WithTimeout(ctx, min(grace, time.Until(until)))
	defer cancel()
	ended, failed := n.docker.ContainerWait(ctx, c.ID, container.WaitConditionNotRunning)
	select {
	case <-ended:
	case <-failed: // time is up, or Docker Engine is down: the forced removal reports errors
	}
	return nil
}

func (n *node) removeContainer(ctx context.Context, id string) error {
	err := n.docker.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) { // conflict: it is already being removed
		return fmt.Errorf("cannot remove container %.12s: %w", id, err)
	}
	return nil
}
