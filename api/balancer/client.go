package balancer

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	certutil "k8s.io/client-go/util/cert"

	"github.com/k8sm/k8sm/api/certfile"
)

// Suits reports whether a configuration leads to API servers themselves: by https, with their CA, and neither through a proxy nor under
// the name of something that stands before them. Then all of them can be reached in the same way.
func Suits(config *rest.Config) bool {
	if _, err := Seed(config.Host); err != nil || config.Insecure || config.Proxy != nil || config.Dial != nil {
		return false
	}
	request, err := http.NewRequest(http.MethodGet, config.Host, nil)
	if err != nil {
		return false
	}
	if proxy, err := http.ProxyFromEnvironment(request); err != nil || proxy != nil {
		return false
	}
	return (config.CAFile != "" || len(config.CAData) > 0) && (config.ServerName == "" || config.ServerName == ServerName)
}

// Use returns a balancer for the clients of a configuration, and makes them connect through it. Run and Follow keep the balancer.
func Use(config *rest.Config) (*Balancer, error) {
	cas, err := authoritiesOf(config.TLSClientConfig)
	if err != nil {
		return nil, fmt.Errorf("cannot read the CA of the API server: %w", err)
	}
	seed, err := Seed(config.Host)
	if err != nil {
		return nil, err
	}
	b, err := New(Config{Seeds: []string{seed}, CAs: cas})
	if err != nil {
		return nil, err
	}
	config.Dial, config.ServerName = b.Dial, ServerName
	config.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil } // Dial would take API servers for the environment's proxy
	return b, nil
}

// authoritiesOf returns the CAs of a configuration: those that are in its file at each call, or its data.
func authoritiesOf(config rest.TLSClientConfig) (func() (*x509.CertPool, error), error) {
	if len(config.CAData) == 0 {
		file, err := certfile.NewAuthorities(config.CAFile)
		if err != nil {
			return nil, err
		}
		return file.Pool, nil
	}
	pool, err := certutil.NewPoolFromBytes(config.CAData)
	return func() (*x509.CertPool, error) { return pool, nil }, err
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
			b.Set(Servers(slice))
		}
	}
	informer := factory.Discovery().V1().EndpointSlices().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: take, UpdateFunc: func(_, object any) { take(object) }})
	if err == nil {
		err = informer.SetWatchErrorHandlerWithContext(tolerant())
	}
	if err != nil {
		return fmt.Errorf("cannot watch the API servers' addresses: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	<-ctx.Done()
	return ctx.Err()
}

// tolerant returns a handler of a watch's errors that says once if the user may not watch: he goes on with the servers that are known.
func tolerant() cache.WatchErrorHandlerWithContext {
	var once sync.Once
	return func(ctx context.Context, r *cache.Reflector, err error) {
		if !apierrors.IsForbidden(err) {
			cache.DefaultWatchErrorHandler(ctx, r, err)
			return
		}
		once.Do(func() {
			logrus.WithError(err).Info("this user may not see which API servers the cluster has: only known ones are used")
		})
	}
}

// sliceName is that of the EndpointSlice, in namespace default.
const sliceName = "kubernetes"

// Servers returns the addresses in the EndpointSlice of the service "kubernetes", sorted.
func Servers(slice *discoveryv1.EndpointSlice) (servers []string) {
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
