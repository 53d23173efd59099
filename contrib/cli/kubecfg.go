package cli

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/cli/clients"
	"github.com/k8sm/k8sm/contrib/kubecfg"
)

const kubecfgHelp = `
This is the client of Kubernetes in October 2014, in km. Long flags have one dash or two. It calls the server of -h or of the variable
KUBERNETES_MASTER, or else the one of the cluster in --state-dir, as its administrator:

  km up --v1beta1-address=127.0.0.1:8080
  km kubecfg -c contrib/examples/v1beta1/redis.json create /pods
  km kubecfg list /pods
  km kubecfg -p 8080:80 run dockerfile/nginx 2 myNginx
  km kubecfg resize myNginx 3
  km kubecfg stop myNginx
  km kubecfg rm myNginx

It exits with status 0 on success, 1 on failure, and 2 when a flag is wrong.
`

func kubecfgCommand(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "kubecfg", Short: "The kubecfg of 2014, for the v1beta1 API", DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, args := clients.TakeStateDir(c.dir(), args)
			return ended(kubecfg.Run(cmd.Context(), kubecfg.Call{
				Args: args, In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Errs: cmd.ErrOrStderr(), Help: kubecfgHelp,
				Find: func() (*rest.Config, error) { return findGateway(dir) },
			}))
		},
	}
	cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) { _ = cmd.RunE(cmd, []string{"-help"}) }) // of km help kubecfg
	return cmd
}

// findGateway says how the administrator of the cluster in the directory reaches its v1beta1 API.
func findGateway(dir statedir.Dir) (*rest.Config, error) {
	gateway, err := dir.Gateway()
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", dir.AdminKubeconfig())
	if err != nil {
		return nil, fmt.Errorf("cannot read the administrator's kubeconfig: %w", err)
	}
	host, port, err := net.SplitHostPort(gateway.Address)
	if err != nil {
		return nil, fmt.Errorf("cannot use the recorded address of the v1beta1 API: %w", err)
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	config.Host = "https://" + net.JoinHostPort(host, port)
	return config, nil
}

// exitStatus is that of a command which has printed why itself.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// ended makes the error of an exit status; nil for success.
func ended(status int) error {
	if status == 0 {
		return nil
	}
	return exitStatus(status)
}

// statusOf returns the exit status that the error is.
func statusOf(err error) (status int, ok bool) {
	var s exitStatus
	ok = errors.As(err, &s)
	return int(s), ok
}
