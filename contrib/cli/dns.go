package cli

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/dns"
)

func dnsCommand(c *common) *cobra.Command {
	var cfg dns.Config
	var check bool
	cmd := &cobra.Command{
		Use: "dns", Short: "Run a server of the cluster's DNS", Args: cobra.NoArgs,
		Long: `Serves the names of services and pods by CoreDNS, and forwards other names to this machine's nameservers. km apiserver and km up
run two of these servers. More can run on other machines that pods reach, each with a copy of dns.kubeconfig from the control
plane's --state-dir. A server is an endpoint of the service kube-dns as long as it answers.`,
		RunE: func(*cobra.Command, []string) error {
			if err := usage(cfg.Validate(), checkFiles(named{"kubeconfig", cfg.Kubeconfig})); err != nil {
				return err
			}
			return serve(c, func(ctx context.Context) error {
				if check {
					return dns.Check(cfg)
				}
				if cfg.Kubeconfig == "" {
					cfg.Kubeconfig = c.dir().DNSKubeconfig()
				}
				if cfg.CertFile == "" {
					cfg.CertFile, cfg.KeyFile = c.dir().Pair(statedir.DNSServer)
				}
				if cfg.ClientCAFile == "" {
					cfg.ClientCAFile = c.dir().CA()
				}
				original, err := clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig)
				if err != nil {
					return fmt.Errorf("cannot read how to reach the API server: %w", err)
				}
				cfg.APIServer = original.Host
				beside := statedir.Dir(filepath.Dir(cfg.Kubeconfig)) // it may be of another cluster than the state directory
				return withAPIServers(ctx, cfg.Kubeconfig, beside, func(ctx context.Context, kubeconfig string) error {
					cfg.Kubeconfig = kubeconfig
					return dns.Run(ctx, cfg)
				})
			})
		},
	}
	cfg.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&check, "check", false, "check the configuration and exit")
	return cmd
}
