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
	// parallelRemovals bounds how many containers are removed at a time.
	parallelRemovals = 32
	// usualGrace is Kubernetes' grace period for pods that name none.
	usualGrace = 30 * time.Second
)

// removeContainers ends and removes all containers of this node, and no others. They have their pods' grace periods to
// end by themselves, but no longer than until shortly before the end of ctx. Sandboxes go last, because what ends may
// need the network to do so. The pods' preStop hooks are the kubelet's, which has been stopped.
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

// removalReserve is what of the time that is left is kept for the removal of what has ended.
func removalReserve(left time.Duration) time.Duration { return max(time.Second, left/5) }

// forEach does something with every container, with at most so many at a time (-1 is all), and returns all errors.
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

// endContainer sends the container its stop signal and waits until it has ended, or its grace period has passed, or until.
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
	if cerrdefs.IsNotFound(err) || cerrdefs.IsConflict(err) { // a conflict: it has ended
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
	case <-failed: // the time is over, or the Engine is away: removal is by force, and says so
	}
	return nil
}

func (n *node) removeContainer(ctx context.Context, id string) error {
	err := n.docker.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) { // a conflict: it is being removed
		return fmt.Errorf("cannot remove container %.12s: %w", id, err)
	}
	return nil
}
