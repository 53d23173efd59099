package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
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
			dir := statedir.Dir("") // what is remembered there is about another cluster
			if kubeconfig == "" {
				dir, kubeconfig = c.dir(), c.dir().AdminKubeconfig()
				if _, err := os.Stat(kubeconfig); errors.Is(err, os.ErrNotExist) {
					return fmt.Errorf("%w; or give --kubeconfig", c.dir().NoCluster())
				}
				cfg.Scheduler = func(ctx context.Context) (string, error) { return leaderAddress(ctx, c.dir(), clusterName) }
			}
			return serve(c, func(ctx context.Context) error {
				user, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig},
					&clientcmd.ConfigOverrides{CurrentContext: contextName}).ClientConfig()
				if err != nil {
					return fmt.Errorf("cannot read the kubeconfig: %w", err)
				}
				stop, err := useAPIServers(ctx, user, dir)
				if err != nil {
					return err
				}
				defer stop()
				return runUI(ctx, cfg, user, cmd.OutOrStdout())
			})
		},
	}
	cfg.AddFlags(cmd.Flags())
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig `file` of the cluster and the user (default: the administrator's, in the state directory)")
	cmd.Flags().StringVar(&contextName, "context", "", "`name` of the kubeconfig's context (default: its current one)")
	cmd.Flags().StringVar(&clusterName, "cluster-name", defaultName, "without --kubeconfig: `name` of the cluster, as given to km scheduler")
	return cmd
}

// runUI serves the page and prints the link.
func runUI(ctx context.Context, cfg ui.Config, user *rest.Config, out io.Writer) error {
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

// connectPage makes the page the control plane's, whose certificates must be there. admin is the cluster's administrator; the caller calls
// stop when the page has ended.
func connectPage(ctx context.Context, page *ui.Server, dir statedir.Dir) (admin *rest.Config, stop func(), err error) {
	if admin, stop, err = administer(ctx, dir); err != nil {
		return nil, nil, err
	}
	certFile, keyFile := dir.Pair(statedir.APIServer)
	if err := page.Connect(admin, certFile, keyFile); err != nil {
		stop()
		return nil, nil, err
	}
	return admin, stop, nil
}

// servePage serves the page beside a control plane.
func servePage(ctx context.Context, page *ui.Server, dir statedir.Dir) error {
	_, stop, err := connectPage(ctx, page, dir)
	if err != nil {
		return err
	}
	defer stop()
	logrus.WithField("url", page.URL()).Info("serving the web page")
	return page.Run(ctx)
}
