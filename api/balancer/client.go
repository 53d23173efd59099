package balancer

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// Use returns a balancer for the clients of a configuration, and makes them connect through it. Run and Follow keep the balancer.
func Use(config *rest.Config) (*Balancer, error) {
	loaded := rest.CopyConfig(config) // config keeps its files: client-go reads renewed certificates again
	if err := rest.LoadTLSFiles(loaded); err != nil {
		return nil, fmt.Errorf("cannot read the CA of the API server: %w", err)
	}
	seed, err := Seed(config.Host)
	if err != nil {
		return nil, err
	}
	b, err := New(Config{Seeds: []string{seed}, CA: loaded.CAData})
	if err != nil {
		return nil, err
	}
	config.Dial, config.ServerName = b.Dial, ServerName
	return b, nil
}

// Seed returns the "host:port" of an API server's URL.
func Seed(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return "", fmt.Errorf("cannot use the API server %q: give a URL such as https://10.0.0.5:6443", server)
	}
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "443"), nil
	}
	return u.Host, nil
}

// Follow tells the balancer which servers the cluster has until ctx ends: it watches the EndpointSlice that the API servers themselves
// keep (https://kubernetes.io/docs/reference/command-line-tools-reference/kube-apiserver/, --endpoint-reconciler-type).
func (b *Balancer) Follow(ctx context.Context, client kubernetes.Interface) error {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(metav1.NamespaceDefault),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, sliceName).String()
		}))
	take := func(object any) {
		if slice, ok := object.(*discoveryv1.EndpointSlice); ok {
			b.Set(serversOf(slice))
		}
	}
	_, err := factory.Discovery().V1().EndpointSlices().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: take, UpdateFunc: func(_, object any) { take(object) },
	})
	if err != nil {
		return fmt.Errorf("cannot watch the API servers' addresses: %w", err)
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	<-ctx.Done()
	return ctx.Err()
}

// sliceName is that of the EndpointSlice, in namespace default.
const sliceName = "kubernetes"

// serversOf returns the addresses in a slice, sorted.
func serversOf(slice *discoveryv1.EndpointSlice) (servers []string) {
	for _, port := range slice.Ports {
		if port.Port == nil || (port.Protocol != nil && *port.Protocol != corev1.ProtocolTCP) {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			for _, text := range endpoint.Addresses {
				if address, err := netip.ParseAddr(text); err == nil {
					servers = append(servers, net.JoinHostPort(address.String(), strconv.Itoa(int(*port.Port))))
				}
			}
		}
	}
	slices.Sort(servers)
	return slices.Compact(servers)
}
