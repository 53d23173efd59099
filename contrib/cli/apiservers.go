package cli

import (
	"context"
	"os"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/balancer"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/minion/supervise"
)

// reachAPIServers makes clients with this configuration connect to whichever API server of the cluster answers. The servers are
// remembered in the state directory, if there is one.
func reachAPIServers(config *rest.Config, dir statedir.Dir) (*balancer.Balancer, error) {
	servers, err := balancer.Use(config)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(string(dir)); err == nil {
		servers.Remember(dir.APIServers())
	}
	return servers, nil
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
