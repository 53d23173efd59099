package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/contrib/assigner"
)

func assignerCommand(c *common) *cobra.Command {
	return assigner.NewCommand(func(ctx context.Context, name string) (assigner.Cluster, error) {
		takeOverKlog() // etcd's client logs each closed connection there
		etcd, err := c.dir().Etcd()
		if err != nil {
			return assigner.Cluster{}, err
		}
		config, err := clientcmd.BuildConfigFromFlags("", c.dir().AdminKubeconfig())
		if err != nil {
			return assigner.Cluster{}, fmt.Errorf("cannot read the administrator's kubeconfig: %w", err)
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return assigner.Cluster{}, fmt.Errorf("cannot create a client of the API server: %w", err)
		}
		store, err := state.Open(ctx, stateConfig(etcd, name))
		if err != nil {
			return assigner.Cluster{}, err
		}
		return assigner.Cluster{KV: store.Folder(assigner.Folder), Kubernetes: client, Close: func() { _ = store.Close() }}, nil
	}, defaultName)
}
