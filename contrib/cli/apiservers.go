package cli

import (
	"context"
	"fmt"
	"os"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api/balancer"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/gateway"
	"github.com/k8sm/k8sm/minion/supervise"
)

// reachAPIServers makes clients with this configuration connect to whichever API server of the cluster answers. The servers are
// remembered in the state directory, if there is one.
func reachAPIServers(config *rest.Config, dir statedir.Dir) (*balancer.Balancer, error) {
	servers, err := balancer.Use(config)
	if err != nil {
		return nil, err
	}
	remember(servers, dir)
	return servers, nil
}

func remember(servers *balancer.Balancer, dir statedir.Dir) {
	if _, err := os.Stat(string(dir)); err == nil { // "" is never there
		servers.Remember(dir.APIServers())
	}
}

// keepAPIServers checks the servers and follows their list until the caller calls stop.
func keepAPIServers(ctx context.Context, servers *balancer.Balancer, client kubernetes.Interface) (stop func()) {
	checks := supervise.Start(ctx, "the checks of API servers", servers.Run)
	list := supervise.Start(ctx, "the watch on API servers", func(ctx context.Context) error { return servers.Follow(ctx, client) })
	return func() {
		list.Stop()
		checks.Stop()
	}
}

// useAPIServers is reachAPIServers and keepAPIServers, for clients that are made afterwards. A configuration that does not suit stays as
// it is: see balancer.Suits.
func useAPIServers(ctx context.Context, config *rest.Config, dir statedir.Dir) (stop func(), err error) {
	if !balancer.Suits(config) {
		return func() {}, nil
	}
	servers, err := reachAPIServers(config, dir)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cannot create a client of the API server: %w", err)
	}
	return keepAPIServers(ctx, servers, client), nil
}

// administer returns how programs beside the control plane reach the cluster's API servers as the administrator, until they call stop.
func administer(ctx context.Context, dir statedir.Dir) (admin *rest.Config, stop func(), err error) {
	if admin, err = dir.Admin(); err != nil {
		return nil, nil, err
	}
	if stop, err = useAPIServers(ctx, admin, dir); err != nil {
		return nil, nil, err
	}
	return admin, stop, nil
}

// serveGateway serves the APIs of 2014 beside a control plane.
func serveGateway(ctx context.Context, server *gateway.Server, dir statedir.Dir, ready func()) error {
	admin, stop, err := administer(ctx, dir)
	if err != nil {
		return err
	}
	defer stop()
	return server.Run(ctx, admin, ready)
}

// withAPIServers runs a role, which reads a kubeconfig, with one that leads to whichever API server of the cluster answers. The role gets
// the original one if that does not suit: see balancer.Suits.
func withAPIServers(ctx context.Context, kubeconfig string, dir statedir.Dir, role func(ctx context.Context, kubeconfig string) error) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("cannot read how to reach the API server: %w", err)
	}
	if !balancer.Suits(config) {
		return role(ctx, kubeconfig)
	}
	port, err := balancer.OpenPort(kubeconfig)
	if err != nil {
		return err
	}
	defer port.Close()
	remember(port.Balancer, dir)
	client, err := kubernetes.NewForConfig(port.Config)
	if err != nil {
		return fmt.Errorf("cannot create a client of the API server: %w", err)
	}
	after := context.WithoutCancel(ctx) // a server that ends leaves its service
	stopChecks := keepAPIServers(after, port.Balancer, client)
	defer stopChecks()
	serving := supervise.Start(after, "the port of the API servers", port.ServePort)
	defer serving.Stop()
	return role(ctx, port.Kubeconfig())
}
