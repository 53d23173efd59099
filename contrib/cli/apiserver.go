package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/k8sm/k8sm/api/controlplane"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/dns"
	"github.com/k8sm/k8sm/contrib/gateway"
	"github.com/k8sm/k8sm/contrib/logs"
	"github.com/k8sm/k8sm/contrib/metrics"
	"github.com/k8sm/k8sm/contrib/ui"
	"github.com/k8sm/k8sm/minion"
)

func apiserverCommand(c *common) *cobra.Command {
	var cfg controlplane.Config
	var replicas dns.Replicas
	var stats metrics.Beside
	var kept logs.Beside
	var compat gateway.Config
	page := ui.Config{Prefix: "ui-"}
	cmd := &cobra.Command{
		Use: "apiserver", Short: "Run etcd, kube-apiserver, kube-controller-manager, and the cluster's DNS, metrics and logs", Args: cobra.NoArgs,
		Long: `Runs etcd (unless --etcd-servers names another), the stock kube-apiserver and the stock kube-controller-manager in one process.
Runs the cluster's DNS, metrics and logs in processes beside it, unless the API server listens on loopback only. The first start writes
certificates and kubeconfigs to --state-dir; km scheduler, km kubectl and km etcdctl with the same --state-dir find the cluster there.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.StateDir, cfg.Minions.LogFormat = c.dir(), string(c.logFormat)
			if err := advertise(&cfg); err != nil {
				return err
			}
			replicas := dnsOf(c, cfg, replicas)
			stats := metricsOf(c, &cfg, replicas, stats)
			kept := logsOf(c, &cfg, kept)
			compat.StateDir, cfg.ServingNames = cfg.StateDir, slices.Concat(compat.Names(), page.Names())
			if err := usage(checkPlane(cfg), replicas.Validate(), stats.Validate(), kept.Validate(), compat.Validate(), page.Validate()); err != nil {
				return err
			}
			cfg.Ready = func(string) { c.notify.ready() }
			return serve(c, func(ctx context.Context) error {
				stats.Logs = kept.Serves()
				if err := errors.Join(checkDNS(ctx, replicas), stats.Free(), kept.Free()); err != nil {
					return err
				}
				addOns := []func(context.Context) error{
					func(ctx context.Context) error {
						return replicas.Run(ctx, os.Stderr, func() { logrus.Info("the cluster's DNS is ready") })
					},
					func(ctx context.Context) error { return stats.Run(ctx, os.Stderr) },
					func(ctx context.Context) error { return kept.Run(ctx, os.Stderr) },
				}
				if compat.Enabled() {
					server, err := gateway.Listen(compat)
					if err != nil {
						return err
					}
					defer server.Close()
					addOns = append(addOns, func(ctx context.Context) error { return serveGateway(ctx, server, cfg.StateDir, func() {}) })
				}
				if page.Enabled() {
					server, err := ui.Listen(pageOf(c, page, cfg.ClusterName))
					if err != nil {
						return err
					}
					defer server.Close()
					addOns = append(addOns, func(ctx context.Context) error { return servePage(ctx, server, cfg.StateDir) })
				}
				cfg.Beside = func(ctx context.Context) error { return together(ctx, addOns) }
				return controlplane.Run(ctx, cfg)
			})
		},
	}
	cfg.AddFlags(cmd.Flags())
	replicas.AddFlags(cmd.Flags(), 2)
	stats.AddFlags(cmd.Flags())
	kept.AddFlags(cmd.Flags())
	cmd.Flags().StringVar(&cfg.ClusterName, "cluster-name", defaultName, "`name` of the cluster, as given to km scheduler: whose metrics are read, and what the web page shows of Mesos")
	compat.AddFlags(cmd.Flags())
	page.AddFlags(cmd.Flags())
	cmd.Flags().Lookup("advertise-address").Usage = advertiseUsage
	return cmd
}

// together runs the parts until ctx ends or one fails.
func together(ctx context.Context, parts []func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, run := range parts {
		group.Go(func() error { return run(ctx) })
	}
	return group.Wait()
}

const advertiseUsage = "IP address at which nodes and pods reach the API server (default: --bind-address; if that is 0.0.0.0 or ::, this machine's address)"

// advertise chooses the advertised address of an API server that listens on all addresses, unless a flag gave one.
func advertise(plane *controlplane.Config) error {
	if !net.ParseIP(plane.BindAddress).IsUnspecified() || plane.AdvertiseAddress != "" {
		return nil
	}
	ip, err := minion.MachineIP()
	if err != nil {
		return fmt.Errorf("cannot find the address at which nodes and pods reach the API server: %w; give it by --advertise-address", err)
	}
	plane.AdvertiseAddress = ip.String()
	return nil
}

// checkPlane checks the flags of a control plane.
func checkPlane(plane controlplane.Config) error {
	takeOverKlog() // the stock programs log while they check their flags
	if err := checkPorts(map[string]int{"secure-port": plane.SecurePort, "etcd-port": plane.EtcdPort}); err != nil {
		return err
	}
	etcd := state.Config{Endpoints: plane.EtcdServers, CAFile: plane.EtcdCAFile, CertFile: plane.EtcdCertFile, KeyFile: plane.EtcdKeyFile}
	if err := checkEtcd(etcd, plane.InsecureEtcd); err != nil {
		return err
	}
	return plane.Validate()
}

// dnsOf completes the configuration of the DNS servers beside a control plane. None run if pods could not reach them or use other
// servers.
func dnsOf(c *common, plane controlplane.Config, replicas dns.Replicas) dns.Replicas {
	if len(plane.DNSService()) == 0 {
		replicas.Count = min(replicas.Count, 0) // keep a negative number: Validate reports it
	}
	if replicas.Count <= 0 {
		return replicas
	}
	replicas.Kubeconfig, replicas.LogLevel, replicas.ClientCAFile = plane.StateDir.DNSKubeconfig(), c.logLevel.String(), plane.StateDir.CA()
	replicas.LogFormat = string(c.logFormat)
	replicas.CertFile, replicas.KeyFile = plane.StateDir.Pair(statedir.DNSServer)
	if replicas.Address == "" {
		replicas.Address = plane.Advertised()
	}
	return replicas
}

// checkDNS asks CoreDNS whether the configuration works, and checks that the ports are free.
func checkDNS(ctx context.Context, replicas dns.Replicas) error {
	if replicas.Count == 0 {
		return nil
	}
	return replicas.Check(ctx)
}
