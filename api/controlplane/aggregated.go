package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/k8sm/k8sm/api"
)

// aggregated are servers that run beside the control planes, and to which API servers forward APIs
// (https://kubernetes.io/docs/tasks/extend-kubernetes/setup-extension-api-server/).
type aggregated struct {
	api.Membership
	what     string // for people, in the plural
	port     string // the name of the service's port
	versions []schema.GroupVersion
}

// aggregated returns the servers that there are beside this cluster's control planes, and those that there are not.
func (c Config) aggregated() (there, not []aggregated) {
	for _, s := range []struct {
		enabled bool
		aggregated
	}{{c.Metrics, metricsServers()}, {c.Logs, logStores()}} {
		if s.enabled {
			there = append(there, s.aggregated)
		} else {
			not = append(not, s.aggregated)
		}
	}
	return there, not
}

// objects are the servers' service, and the namespace of their leases.
func (a aggregated) objects() []object { return []object{leaseNamespace(a.Membership), a.service()} }

// service has no address: API servers connect to its endpoints.
func (a aggregated) service() object {
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: a.Namespace, Name: a.Service},
		Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone,
			Ports:     []corev1.ServicePort{{Name: a.port, Port: 443, Protocol: corev1.ProtocolTCP}},
		},
	}
}

// aggregatedAPIs returns the APIs that API servers forward. Without servers there are none: an API that leads nowhere keeps namespaces from
// being deleted.
func (c Config) aggregatedAPIs() (all []object, err error) {
	there, _ := c.aggregated()
	if len(there) == 0 {
		return nil, nil
	}
	ca, err := os.ReadFile(c.StateDir.CA())
	if err != nil {
		return nil, fmt.Errorf("cannot read the cluster's CA: %w", err)
	}
	for _, a := range there {
		all = append(all, a.apis(ca)...)
	}
	return all, nil
}

// apis makes API servers forward the APIs.
func (a aggregated) apis(ca []byte) (all []object) {
	port := int32(443)
	for _, gv := range a.versions {
		all = append(all, &apiregistrationv1.APIService{
			TypeMeta:   metav1.TypeMeta{APIVersion: apiregistrationv1.SchemeGroupVersion.String(), Kind: "APIService"},
			ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group},
			Spec: apiregistrationv1.APIServiceSpec{
				Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: 100, VersionPriority: 100, CABundle: ca,
				Service: &apiregistrationv1.ServiceReference{Namespace: a.Namespace, Name: a.Service, Port: &port},
			},
		})
	}
	return all
}

// offer applies the APIs as soon as there is a server.
func (a aggregated) offer(ctx context.Context, admin clients, caFile string) error {
	err := untilDone(ctx, func(ctx context.Context) error {
		servers, err := admin.typed.DiscoveryV1().EndpointSlices(a.Namespace).List(ctx, metav1.ListOptions{LabelSelector: a.Label})
		if err == nil && len(servers.Items) == 0 {
			err = errors.New("there are no " + a.what)
		}
		return err
	})
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return fmt.Errorf("cannot read the cluster's CA: %w", err)
	}
	return applyAll(ctx, admin.objects, a.apis(ca))
}

// forget removes what servers of earlier starts have left.
func (a aggregated) forget(ctx context.Context, client dynamic.Interface) error {
	for namespace, kind := range map[string]schema.GroupVersionKind{
		a.Namespace:      discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"),
		a.LeaseNamespace: coordinationv1.SchemeGroupVersion.WithKind("Lease"),
	} {
		err := untilDone(ctx, func(ctx context.Context) error {
			return resourceOf(client, kind).Namespace(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: a.Label})
		})
		if err != nil {
			return fmt.Errorf("cannot remove what %s have left: %w", a.what, err)
		}
	}
	return nil
}
