package minion

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubetypes "k8s.io/kubelet/pkg/types"

	"github.com/k8sm/k8sm/minion/cri"
	"github.com/k8sm/k8sm/minion/supervise"
)

// serveCRI runs the CRI server until it fails or ctx ends. Containers keep running without it.
func (n *node) serveCRI(ctx context.Context) error {
	server, err := cri.New(ctx, cri.Config{
		Socket:     n.files.socket(),
		DockerHost: n.cluster.DockerHost, DockerCertPath: n.cluster.DockerCertPath,
		Root:     n.files.cri(),
		Cluster:  n.boot.Cluster,
		Node:     n.boot.Node,
		Network:  n.podNetwork(),
		Cgroup:   n.cgroupParent,
		LogSize:  logFiles * logFileSize,
		Rewrites: n.cluster.ImageRewrites, Credentials: n.files.credentials(),
		Called: n.metrics.Call, Traces: n.traces,
	})
	if err != nil {
		return err
	}
	n.criServer.Store(server)
	defer n.criServer.Store(nil)
	return server.Run(ctx)
}

// awaitCRI waits until the CRI server listens: a kubelet exits if it cannot connect.
func (n *node) awaitCRI(ctx context.Context) error {
	for {
		connection, err := net.Dial("unix", n.files.socket())
		if err == nil {
			return connection.Close()
		}
		if err := supervise.Sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// removeSandboxes removes the ended sandboxes of a pod that is gone from the API server. The kubelet's garbage collection would take
// up to a minute. A pod that was deleted by force may still run; the kubelet handles that.
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
