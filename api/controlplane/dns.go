package controlplane

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/k8sm/k8sm/api"
)

// clusterDNS returns the DNS servers for pods. The default is the tenth address of the first range of services, as in most clusters.
// A control plane on loopback has no DNS by default, because pods cannot reach it.
func (c Config) clusterDNS() []string {
	if len(c.ClusterDNS) > 0 || !c.Reachable() {
		return c.ClusterDNS
	}
	ranges := c.serviceRanges()
	if len(ranges) == 0 {
		return nil
	}
	address := ranges[0].Masked().Addr()
	for range 10 {
		address = address.Next()
	}
	return []string{address.String()}
}

// DNSService returns those of the cluster's DNS addresses that belong to a service, and so need servers behind it.
func (c Config) DNSService() []string {
	return slices.DeleteFunc(slices.Clone(c.clusterDNS()), func(text string) bool {
		address, err := netip.ParseAddr(text)
		return err != nil || !slices.ContainsFunc(c.serviceRanges(), func(p netip.Prefix) bool { return p.Contains(address) })
	})
}

func (c Config) serviceRanges() []netip.Prefix {
	var ranges []netip.Prefix
	for _, text := range strings.Split(c.ServiceCIDR, ",") {
		if prefix, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil {
			ranges = append(ranges, prefix)
		}
	}
	return ranges
}

// Reachable reports whether pods can reach this control plane.
func (c Config) Reachable() bool {
	address, err := netip.ParseAddr(c.Advertised())
	return err != nil || !address.IsLoopback()
}

func (c Config) validateDNS() error {
	if wrong := validation.IsDNS1123Subdomain(c.ClusterDomain); len(wrong) > 0 {
		return fmt.Errorf("cannot use --cluster-domain=%s: %s", c.ClusterDomain, strings.Join(wrong, "; "))
	}
	for _, text := range c.ClusterDNS {
		if _, err := netip.ParseAddr(text); err != nil {
			return fmt.Errorf("cannot use --cluster-dns=%s: not an IP address", text)
		}
	}
	if service := c.DNSService(); len(service) > 2 {
		return fmt.Errorf("cannot use --cluster-dns=%s: a service has one address of each family", strings.Join(service, ","))
	}
	return nil
}

// dns returns the service of the cluster's DNS, unless it is elsewhere, and the namespace of its servers' leases. The service has no
// selector: each server adds itself.
func (c Config) dns() []object {
	addresses := c.DNSService()
	if len(addresses) == 0 {
		return []object{leaseNamespace(api.DNSMembership())}
	}
	families := corev1.IPFamilyPolicySingleStack
	if len(addresses) > 1 {
		families = corev1.IPFamilyPolicyRequireDualStack
	}
	return []object{leaseNamespace(api.DNSMembership()), &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: api.DNSServiceNamespace, Name: api.DNSServiceName,
			Labels: map[string]string{"k8s-app": api.DNSServiceName, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP: addresses[0], ClusterIPs: addresses, IPFamilyPolicy: &families,
			Ports: []corev1.ServicePort{
				{Name: api.DNSPortName, Port: 53, Protocol: corev1.ProtocolUDP},
				{Name: api.DNSTCPPortName, Port: 53, Protocol: corev1.ProtocolTCP},
			},
		},
	}}
}

// leaseNamespace is where the servers of a service renew their leases.
func leaseNamespace(m api.Membership) object { return namespace(m.LeaseNamespace) }

func namespace(name string) object {
	return &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: name}}
}
