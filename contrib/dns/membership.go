package dns

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	coordinationapply "k8s.io/client-go/applyconfigurations/coordination/v1"
	discoveryapply "k8s.io/client-go/applyconfigurations/discovery/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api"
)

const (
	// beat is the interval at which a replica renews its lease and checks the others.
	beat = 3 * time.Second
	// lifetime is how long a replica counts as alive without a renewal.
	lifetime = 10 * time.Second
	// owner manages a replica's objects, in server-side apply and in EndpointSlices.
	owner = "dns.k8sm.io"
)

// membership keeps one replica in the service, and removes dead ones. One goroutine owns it.
type membership struct {
	kube   kubernetes.Interface
	name   string // of the replica
	listen netip.AddrPort
	watch  watch
	inside bool // the replica was put into the service
}

// replicaName is unique among the replicas of a cluster, and stays the same across restarts.
func replicaName(host string, port int) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(host))
	suffix := "-" + strconv.Itoa(port)
	name = strings.Trim(name[:min(len(name), validation.DNS1123LabelMaxLength-len(suffix)-len(leasePrefix))], "-")
	return cmp.Or(name, "server") + suffix
}

// leasePrefix precedes the replica's name in the names of its lease and its slice.
const leasePrefix = api.DNSObjectPrefix

// beat renews the replica's lease, adds it to the service or removes it according to answers, and removes dead replicas.
func (m *membership) beat(ctx context.Context, answers bool) error {
	lease := coordinationapply.Lease(leasePrefix+m.name, api.DNSLeaseNamespace).
		WithLabels(map[string]string{api.LabelDNSReplica: m.name}).
		WithSpec(coordinationapply.LeaseSpec().WithHolderIdentity(m.name).
			WithLeaseDurationSeconds(int32(lifetime / time.Second)).WithRenewTime(metav1.NowMicro()))
	if _, err := m.kube.CoordinationV1().Leases(api.DNSLeaseNamespace).Apply(ctx, lease, forced); err != nil {
		return fmt.Errorf("cannot renew the lease of this DNS server: %w", err)
	}
	endpoints, err := m.kube.DiscoveryV1().EndpointSlices(api.DNSServiceNamespace).List(ctx, replicas(""))
	if err != nil {
		return fmt.Errorf("cannot list the DNS servers: %w", err)
	}
	leases, err := m.kube.CoordinationV1().Leases(api.DNSLeaseNamespace).List(ctx, replicas(""))
	if err != nil {
		return fmt.Errorf("cannot list the leases of the DNS servers: %w", err)
	}
	if err := m.stand(ctx, endpoints.Items, answers); err != nil {
		return err
	}
	found := map[string]string{}
	for _, slice := range endpoints.Items {
		found[slice.Labels[api.LabelDNSReplica]] = ""
	}
	for _, lease := range leases.Items {
		found[lease.Labels[api.LabelDNSReplica]] = lease.ResourceVersion
	}
	delete(found, m.name)
	for _, name := range m.watch.step(time.Now(), found) {
		if err := m.remove(ctx, name, found[name]); err != nil {
			return err
		}
		logrus.WithField("replica", name).Warn("removed a DNS server from the service: it did not renew its lease")
	}
	return nil
}

var forced = metav1.ApplyOptions{FieldManager: owner, Force: true}

// replicas selects the objects of a replica, or of all replicas for "".
func replicas(name string) metav1.ListOptions {
	if name == "" {
		return metav1.ListOptions{LabelSelector: api.LabelDNSReplica}
	}
	return metav1.ListOptions{LabelSelector: api.LabelDNSReplica + "=" + name}
}

// stand adds the replica to the service if it answers, and removes it otherwise.
func (m *membership) stand(ctx context.Context, there []discoveryv1.EndpointSlice, answers bool) error {
	i := slices.IndexFunc(there, func(s discoveryv1.EndpointSlice) bool { return s.Labels[api.LabelDNSReplica] == m.name })
	switch {
	case !answers && i >= 0:
		logrus.Warn("this DNS server does not answer: taking it out of the service")
		return m.withdraw(ctx)
	case !answers || i >= 0 && m.inside:
		return nil
	}
	// Write a slice of an earlier life again, too: its address may be out of date.
	if i >= 0 && there[i].AddressType != addressType(m.listen) { // immutable
		if err := m.withdraw(ctx); err != nil {
			return err
		}
	}
	if _, err := m.kube.DiscoveryV1().EndpointSlices(api.DNSServiceNamespace).Apply(ctx, m.slice(), forced); err != nil {
		return fmt.Errorf("cannot put this DNS server into the service: %w", err)
	}
	m.inside = true
	logrus.WithField("address", m.listen).Info("this DNS server is in the service " + api.DNSServiceName)
	return nil
}

func addressType(a netip.AddrPort) discoveryv1.AddressType {
	if a.Addr().Is4() {
		return discoveryv1.AddressTypeIPv4
	}
	return discoveryv1.AddressTypeIPv6
}

// slice returns the replica's EndpointSlice for kube-proxies.
func (m *membership) slice() *discoveryapply.EndpointSliceApplyConfiguration {
	port := func(name string, protocol corev1.Protocol) *discoveryapply.EndpointPortApplyConfiguration {
		return discoveryapply.EndpointPort().WithName(name).WithProtocol(protocol).WithPort(int32(m.listen.Port()))
	}
	return discoveryapply.EndpointSlice(leasePrefix+m.name, api.DNSServiceNamespace).
		WithLabels(map[string]string{
			api.LabelDNSReplica:          m.name,
			discoveryv1.LabelServiceName: api.DNSServiceName,
			discoveryv1.LabelManagedBy:   owner,
		}).
		WithAddressType(addressType(m.listen)).
		WithPorts(port(api.DNSPortName, corev1.ProtocolUDP), port(api.DNSTCPPortName, corev1.ProtocolTCP)).
		WithEndpoints(discoveryapply.Endpoint().WithAddresses(m.listen.Addr().String()).
			WithConditions(discoveryapply.EndpointConditions().WithReady(true).WithServing(true).WithTerminating(false)))
}

// withdraw removes the replica from the service.
func (m *membership) withdraw(ctx context.Context) error {
	m.inside = false
	err := m.kube.DiscoveryV1().EndpointSlices(api.DNSServiceNamespace).Delete(ctx, leasePrefix+m.name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot take this DNS server out of the service: %w", err)
	}
	return nil
}

// leave withdraws the replica for good.
func (m *membership) leave(ctx context.Context) error {
	if err := m.withdraw(ctx); err != nil {
		return err
	}
	return m.remove(ctx, m.name, "")
}

// remove removes the objects of a replica. It does nothing if the lease has another version than the given one: then the replica has
// renewed it just now.
func (m *membership) remove(ctx context.Context, name, version string) error {
	var options metav1.DeleteOptions
	if version != "" {
		options.Preconditions = &metav1.Preconditions{ResourceVersion: &version}
	}
	err := m.kube.CoordinationV1().Leases(api.DNSLeaseNamespace).Delete(ctx, leasePrefix+name, options)
	if apierrors.IsConflict(err) {
		return nil
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot remove the lease of the DNS server %s: %w", name, err)
	}
	err = m.kube.DiscoveryV1().EndpointSlices(api.DNSServiceNamespace).Delete(ctx, leasePrefix+name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot take the DNS server %s out of the service: %w", name, err)
	}
	return nil
}

// watch detects dead replicas. It counts from when it saw a lease change, not from the time in the lease, because clocks differ. Its
// zero value is ready.
type watch struct {
	seen map[string]sighting
	last time.Time
}

// sighting is when a replica's lease was first seen with this version.
type sighting struct {
	version string
	since   time.Time
}

// step takes the current versions of the other replicas' leases, "" for a replica without a lease, and returns those that did not
// renew for longer than lifetime, sorted. Time during which the API server was unreachable does not count: all replicas need a
// moment to renew then.
func (w *watch) step(now time.Time, found map[string]string) (dead []string) {
	if now.Sub(w.last) > 2*beat {
		w.seen = nil
	}
	w.last = now
	seen := map[string]sighting{}
	for name, version := range found {
		s, known := w.seen[name]
		if !known || s.version != version {
			s = sighting{version: version, since: now}
		}
		if seen[name] = s; now.Sub(s.since) > lifetime {
			dead = append(dead, name)
		}
	}
	w.seen = seen
	return slices.Sorted(slices.Values(dead))
}
