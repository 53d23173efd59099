package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/ui"
)

func uiCommand(c *common) *cobra.Command {
	cfg := ui.Config{Address: "127.0.0.1:8444"}
	var kubeconfig, contextName, clusterName string
	cmd := &cobra.Command{
		Use: "ui", Short: "Show the cluster in a browser", Args: cobra.NoArgs,
		Long: `Serves the cluster's web page until Ctrl-C, and prints a link to it. The link works once: whoever opens it is the user of the
kubeconfig there. The page can do what that user may do.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := usage(cfg.Validate()); err != nil {
				return err
			}
			if !cfg.Enabled() {
				return usage(errors.New("cannot use --address=: give host:port, such as 127.0.0.1:8444"))
			}
			if kubeconfig == "" {
				kubeconfig = c.dir().AdminKubeconfig()
				if _, err := os.Stat(kubeconfig); errors.Is(err, os.ErrNotExist) {
					return fmt.Errorf("%w; or give --kubeconfig", c.dir().NoCluster())
				}
				cfg.Scheduler = func(ctx context.Context) (string, error) { return leaderAddress(ctx, c.dir(), clusterName) }
			}
			return serve(c, func(ctx context.Context) error { return runUI(ctx, cfg, kubeconfig, contextName, cmd.OutOrStdout()) })
		},
	}
	cfg.AddFlags(cmd.Flags())
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig `file` of the cluster and the user (default: the administrator's, in the state directory)")
	cmd.Flags().StringVar(&contextName, "context", "", "`name` of the kubeconfig's context (default: its current one)")
	cmd.Flags().StringVar(&clusterName, "cluster-name", defaultName, "without --kubeconfig: `name` of the cluster, as given to km scheduler")
	return cmd
}

// runUI serves the page and prints the link.
func runUI(ctx context.Context, cfg ui.Config, kubeconfig, contextName string, out io.Writer) error {
	user, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig},
		&clientcmd.ConfigOverrides{CurrentContext: contextName}).ClientConfig()
	if err != nil {
		return fmt.Errorf("cannot read the kubeconfig: %w", err)
	}
	server, err := ui.Listen(cfg)
	if err != nil {
		return err
	}
	defer server.Close()
	if err := server.ConnectAlone(user); err != nil {
		return err
	}
	link, err := server.Link(ctx, user)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Web: %s\nThe link works once. The browser warns of the certificate, which km made for itself. Ctrl-C ends the page.\n", link)
	return server.Run(ctx)
}

// pageOf completes the configuration of the web page beside the control plane of a cluster.
func pageOf(c *common, page ui.Config, clusterName string) ui.Config {
	if page.Scheduler == nil {
		page.Scheduler = func(ctx context.Context) (string, error) { return leaderAddress(ctx, c.dir(), clusterName) }
	}
	return page
}

// connectPage makes the page the control plane's, whose certificates must be there.
func connectPage(page *ui.Server, dir statedir.Dir) error {
	admin, err := dir.Admin()
	if err != nil {
		return err
	}
	certFile, keyFile := dir.Pair(statedir.APIServer)
	return page.Connect(admin, certFile, keyFile)
}

// servePage serves the page beside a control plane.
func servePage(ctx context.Context, page *ui.Server, dir statedir.Dir) error {
	if err := connectPage(page, dir); err != nil {
		return err
	}
	logrus.WithField("url", page.URL()).Info("serving the web page")
	return page.Run(ctx)
}
