package minion

import (
	"context"
	"fmt"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/minion/commit"
)

// commit returns what makes images of the node's containers.
func (n *node) commit(client kubernetes.Interface) func(context.Context) error {
	return func(ctx context.Context) error {
		cfg, err := restConfig(n.boot, n.files.ca(), n.files.nodeAuth())
		if err != nil {
			return err
		}
		objects, err := dynamic.NewForConfig(cfg)
		if err != nil {
			return fmt.Errorf("cannot use the credentials for %s: %w", n.boot.APIServer, err)
		}
		return commit.Run(ctx, commit.Config{
			Cluster: n.boot.Cluster, Node: n.boot.Node, Dir: n.files.commits(), KeepFree: n.cluster.EvictionHard["nodefs.available"],
			Kubernetes: client, Objects: objects, Docker: n.docker, Log: n.log,
		})
	}
}
