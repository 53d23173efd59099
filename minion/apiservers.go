package minion

import (
	"context"
	"os"

	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api/balancer"
	"github.com/k8sm/k8sm/minion/supervise"
)

// apiServers is how everything on the node reaches the API servers: by a port on loopback that leads to whichever answers. So no node
// needs a load balancer in front of them. Pods use the service "kubernetes", which kube-proxy balances.
type apiServers struct {
	*balancer.Balancer
	checks, port *supervise.Part
}

// reachAPIServers starts the node's balancer, and makes the node use it. The caller stops it, after all that uses it. usual is where an
// earlier minion remembered the servers, unless the cluster's configuration names another directory.
func (n *node) reachAPIServers(ctx context.Context) (*apiServers, error) {
	seed, err := balancer.Seed(n.boot.APIServer)
	if err != nil {
		return nil, err
	}
	if err := n.believeEarlier(); err != nil {
		return nil, err
	}
	b, err := balancer.New(balancer.Config{Seeds: append([]string{seed}, n.boot.APIServers...), CAs: n.trusted})
	if err != nil {
		return nil, err
	}
	if usual, err := n.usualFiles(); err == nil {
		if _, err := os.Stat(usual.apiServers()); err == nil {
			b.Remember(usual.apiServers())
		}
	}
	listener, err := listenFree(loopback, 0)
	if err != nil {
		return nil, err
	}
	n.namedServer, n.boot.APIServer = n.boot.APIServer, "https://"+listener.Addr().String()
	alive := context.WithoutCancel(ctx)
	return &apiServers{
		Balancer: b,
		checks:   supervise.Start(alive, "the checks of API servers", b.Run),
		port:     supervise.Start(alive, "the port of the API servers", func(ctx context.Context) error { return b.Serve(ctx, listener) }),
	}, nil
}

// follow keeps the list of API servers.
func (s *apiServers) follow(ctx context.Context, client kubernetes.Interface) *supervise.Part {
	return supervise.Start(ctx, "the watch on API servers", func(ctx context.Context) error { return s.Follow(ctx, client) })
}

func (s *apiServers) stop() {
	s.port.Stop()
	s.checks.Stop()
}
