package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/version"

	"github.com/k8sm/k8sm/api"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the versions of km and of what is in it", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "km %s\nKubernetes %s\netcd %s\n%s %s/%s\n",
				api.Version, api.KubernetesVersion, version.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}
