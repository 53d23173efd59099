package minion

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubetypes "k8s.io/kubelet/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/minion/cri"
)

// parallelStops bounds how many containers are stopped at a time.
const parallelStops = 32

// serveCRI is one life of the CRI server. Containers live on without it.
func (n *node) serveCRI(ctx context.Context) error {
	server, err := cri.New(ctx, cri.Config{
		Socket:     n.files.socket(),
		DockerHost: n.cluster.DockerHost,
		Root:       n.files.cri(),
		Cluster:    n.boot.Cluster,
		Node:       n.boot.Node,
		Network:    n.network,
		Cgroup:     n.cgroupParent,
	})
	if err != nil {
		return err
	}
	return server.Run(ctx)
}

// awaitCRI waits until the CRI server listens: a kubelet that finds none ends.
func (n *node) awaitCRI(ctx context.Context) error {
	for {
		connection, err := net.Dial("unix", n.files.socket())
		if err == nil {
			return connection.Close()
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// removeSandboxes removes what has ended of a pod that is gone from the API server. The kubelet would do so at its next
// garbage collection, up to a minute later; a pod that was removed by force still runs here, and is left to the kubelet.
func (n *node) removeSandboxes(ctx context.Context, pod types.UID) {
	log := n.log.WithField("uid", pod)
	connection, err := grpc.NewClient("unix://"+n.files.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.WithError(err).Debug("leaving the pod's sandbox to the kubelet")
		return
	}
	defer connection.Close()
	runtime := runtimeapi.NewRuntimeServiceClient(connection)
	ended, err := runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State:         &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY},
		LabelSelector: map[string]string{kubetypes.KubernetesPodUIDLabel: string(pod)},
	}})
	for _, sandbox := range ended.GetItems() {
		_, err = runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox.Id})
	}
	if err != nil {
		log.WithError(err).Debug("leaving the pod's sandbox to the kubelet")
	}
}

// removeContainers stops and removes all containers of this node, sandboxes included, and no others. They have until
// shortly before the end of ctx to end by themselves.
func (n *node) removeContainers(ctx context.Context) error {
	ours := filters.NewArgs(
		filters.Arg("label", api.DockerLabelFramework+"="+n.boot.Cluster),
		filters.Arg("label", api.DockerLabelNode+"="+n.boot.Node))
	list, err := n.docker.ContainerList(ctx, container.ListOptions{All: true, Filters: ours})
	if err != nil {
		return fmt.Errorf("cannot list the node's containers to stop them: %w", err)
	}
	problems := make([]error, len(list))
	var group errgroup.Group
	group.SetLimit(parallelStops)
	for i, c := range list {
		group.Go(func() error {
			problems[i] = n.removeContainer(ctx, c.ID)
			return nil
		})
	}
	_ = group.Wait() // the errors are in problems
	return errors.Join(problems...)
}

func (n *node) removeContainer(ctx context.Context, id string) error {
	seconds := 1
	if deadline, ok := ctx.Deadline(); ok {
		seconds = max(seconds, int(time.Until(deadline)/time.Second)-1)
	}
	if err := n.docker.ContainerStop(ctx, id, container.StopOptions{Timeout: &seconds}); err != nil && !cerrdefs.IsNotFound(err) {
		return fmt.Errorf("cannot stop container %.12s: %w", id, err)
	}
	err := n.docker.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) { // a conflict: it is being removed
		return fmt.Errorf("cannot remove container %.12s: %w", id, err)
	}
	return nil
}
