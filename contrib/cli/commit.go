package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/contrib/commiter"
)

func commitCommand(c *common) *cobra.Command {
	return commiter.NewCommand(func(kubeconfig string) (cluster commiter.Cluster, err error) {
		if kubeconfig == "" {
			kubeconfig = c.dir().AdminKubeconfig()
			if _, err := os.Stat(kubeconfig); errors.Is(err, os.ErrNotExist) {
				return cluster, c.dir().NoCluster()
			}
		}
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return cluster, fmt.Errorf("cannot read the kubeconfig: %w", err)
		}
		config.QPS, config.Burst = 50, 100
		if cluster.Kubernetes, err = kubernetes.NewForConfig(config); err == nil {
			cluster.Objects, err = dynamic.NewForConfig(config)
		}
		if err != nil {
			return cluster, fmt.Errorf("cannot create a client of the API server: %w", err)
		}
		return cluster, nil
	})
}
