// Package membership keeps servers in a service without a selector: those of the cluster's DNS and metrics run beside the control
// planes and not in pods. Each server renews a lease, adds itself to the service with an EndpointSlice of its own as long as it answers,
// and removes servers that are dead.
//
// The package knows nothing of what the servers do. Start reading at Member.Beat.
package membership

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
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
	"github.com/k8sm/k8sm/api/certfile"
	"github.com/k8sm/k8sm/minion/supervise"
)

const (
	// interval is how often a server calls Beat: it renews its lease and checks the others.
	interval = 2 * time.Second
	// lifetime is how long a server counts as alive without a renewal. Clients of the service wait for a dead one until then, and it has
	// room for a renewal that is lost.
	lifetime = 6 * time.Second
	// Patience is for one call of Beat: etcd loses requests when its leader goes, and they are made again soon.
	Patience = 2 * time.Second
	// soon is the pause before Beat is tried again.
	soon = interval / 8
)

// Member keeps one server in the service, and removes dead ones. One goroutine owns it.
type Member struct {
	// Kube writes the objects, with the rights of Of.User.
	Kube kubernetes.Interface
	// Of is the service.
	Of api.Membership
	// What is what the errors and the log call a server, such as "DNS server".
	What string
	// Host and Listen are the server's machine and address. Host and port name the server: no two in a service have the same.
	Host   string
	Listen netip.AddrPort
	// Ports are the service's ports; the server has them all at the port of Listen.
	Ports []Port

	watch  watch
	inside bool // the server was put into the service
	twin   bool // there is another one of this name
	state  state
}

// state is what Ready tells. Its zero value is ready.
type state struct {
	mu      sync.Mutex // guards all below
	inside  bool
	renewed time.Time // when the lease was renewed last
	problem error     // why the last Beat has failed; nil if it has not
}

func (s *state) note(inside bool, problem error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inside, s.problem = inside, problem; problem == nil {
		s.renewed = time.Now()
	}
}

// Ready returns why the server is not in its service: it does not answer, or no API server has taken its lease for so long that others
// take it for dead. Any goroutine may call it.
func (m *Member) Ready() error {
	m.state.mu.Lock()
	defer m.state.mu.Unlock()
	switch {
	case m.state.renewed.IsZero() && m.state.problem != nil:
		return fmt.Errorf("this %s is not in the service %s yet: %w", m.What, m.Of.Service, m.state.problem)
	case m.state.problem != nil && time.Since(m.state.renewed) > lifetime:
		return fmt.Errorf("this %s has not renewed its lease since %s: %w", m.What, m.state.renewed.UTC().Format(time.RFC3339), m.state.problem)
	case !m.state.inside:
		return fmt.Errorf("this %s is not in the service %s: it does not answer", m.What, m.Of.Service)
	}
	return nil
}

// Port is a port of the service.
type Port struct {
	Name     string
	Protocol corev1.Protocol
}

// ValidateAddress rejects addresses that an EndpointSlice cannot have
// (https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/). clients are those of the service.
func ValidateAddress(text, clients string) error {
	ip, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return errors.New("not an IP address")
	case ip.IsUnspecified() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast():
		return fmt.Errorf("give an address of this machine that %s reach", clients)
	}
	return nil
}

// Free checks that an address is free for the server of the cluster's metrics or logs: what. The machine need not have the address yet.
func Free(address netip.AddrPort, what string) error {
	listener, err := net.Listen("tcp", address.String())
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot use %s for the cluster's %s: %w; stop what uses it, or give another --%[2]s-port or --%[2]s-address", address, what, err)
	}
	return listener.Close()
}

// Inside reports whether the server is in the service.
func (m *Member) Inside() bool { return m.inside }

// name is the server's, and stays the same across restarts.
func (m *Member) name() string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(m.Host))
	suffix := "-" + strconv.Itoa(int(m.Listen.Port()))
	name = strings.Trim(name[:min(len(name), validation.DNS1123LabelMaxLength-len(suffix)-len(m.Of.ObjectPrefix()))], "-")
	return cmp.Or(name, "server") + suffix
}

// Keep keeps the server in the service as long as it answers, until ctx ends; then it leaves. timeout bounds the probe, and leaving.
func (m *Member) Keep(ctx context.Context, probe func(context.Context) error, timeout time.Duration) error {
	for pause := time.Duration(0); supervise.Sleep(ctx, pause) == nil; {
		probing, cancel := context.WithTimeout(ctx, timeout)
		answers := probe(probing) == nil
		cancel()
		once, cancel := context.WithTimeout(ctx, Patience)
		err := m.Beat(once, answers)
		if err != nil && ctx.Err() == nil {
			logrus.WithError(err).Warn("cannot update the service, retrying")
		}
		cancel()
		pause = m.Pause(err)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	return m.Leave(last)
}

// Prober returns a function that asks a server at an address by HTTPS whether it works. The server's certificate has to be of the CA in a
// file, and have the name.
func Prober(caFile, name, url string, timeout time.Duration) (func(context.Context) error, error) {
	authorities, err := certfile.NewAuthorities(caFile)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: timeout, Transport: &http.Transport{
		TLSClientConfig:   certfile.Client(&tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}, authorities.Pool),
		DisableKeepAlives: true, // a restarted process listens on the same port
	}}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, response.Status)
		}
		return nil
	}, nil
}

// Pause returns how long to wait after a call of Beat that returned this error.
func (m *Member) Pause(err error) time.Duration {
	if err != nil || !m.inside {
		return soon
	}
	return interval
}

// Beat renews the server's lease, adds it to the service or removes it according to answers, and removes dead servers.
func (m *Member) Beat(ctx context.Context, answers bool) error {
	err := m.beat(ctx, answers)
	m.state.note(m.inside, err)
	return err
}

func (m *Member) beat(ctx context.Context, answers bool) error {
	name := m.name()
	lease := coordinationapply.Lease(m.Of.ObjectPrefix()+name, m.Of.LeaseNamespace).
		WithLabels(map[string]string{m.Of.Label: name}).
		WithSpec(coordinationapply.LeaseSpec().WithHolderIdentity(name).
			WithLeaseDurationSeconds(int32(lifetime / time.Second)).WithRenewTime(metav1.NowMicro()))
	if _, err := m.Kube.CoordinationV1().Leases(m.Of.LeaseNamespace).Apply(ctx, lease, m.forced()); err != nil {
		return fmt.Errorf("cannot renew the lease of this %s: %w", m.What, err)
	}
	all := metav1.ListOptions{LabelSelector: m.Of.Label}
	endpoints, err := m.Kube.DiscoveryV1().EndpointSlices(m.Of.Namespace).List(ctx, all)
	if err != nil {
		return fmt.Errorf("cannot list the %ss: %w", m.What, err)
	}
	leases, err := m.Kube.CoordinationV1().Leases(m.Of.LeaseNamespace).List(ctx, all)
	if err != nil {
		return fmt.Errorf("cannot list the leases of the %ss: %w", m.What, err)
	}
	if err := m.stand(ctx, endpoints.Items, answers); err != nil {
		return err
	}
	found := map[string]string{}
	for _, slice := range endpoints.Items {
		found[slice.Labels[m.Of.Label]] = ""
	}
	for _, lease := range leases.Items {
		found[lease.Labels[m.Of.Label]] = lease.ResourceVersion
	}
	delete(found, name)
	for _, dead := range m.watch.step(time.Now(), found) {
		if err := m.remove(ctx, dead, found[dead]); err != nil {
			return err
		}
		logrus.WithField("replica", dead).Warnf("removed a %s from the service: it did not renew its lease", m.What)
	}
	return nil
}

// forced is for server-side apply: a server's objects are its own.
func (m *Member) forced() metav1.ApplyOptions {
	return metav1.ApplyOptions{FieldManager: m.Of.Owner, Force: true}
}

// stand adds the server to the service if it answers, and removes it otherwise.
func (m *Member) stand(ctx context.Context, there []discoveryv1.EndpointSlice, answers bool) error {
	i := slices.IndexFunc(there, func(s discoveryv1.EndpointSlice) bool { return s.Labels[m.Of.Label] == m.name() })
	switch {
	case !answers && i >= 0:
		logrus.Warnf("this %s does not answer: taking it out of the service", m.What)
		return m.withdraw(ctx)
	case !answers:
		return nil
	case i >= 0 && m.inside:
		m.tellOfTwin(there[i])
		return nil
	}
	// Write a slice of an earlier life again, too: its address may be out of date.
	if i >= 0 && there[i].AddressType != addressType(m.Listen) { // immutable
		if err := m.withdraw(ctx); err != nil {
			return err
		}
	}
	if _, err := m.Kube.DiscoveryV1().EndpointSlices(m.Of.Namespace).Apply(ctx, m.slice(), m.forced()); err != nil {
		return fmt.Errorf("cannot put this %s into the service: %w", m.What, err)
	}
	m.inside = true
	logrus.WithField("address", m.Listen).Infof("this %s is in the service %s", m.What, m.Of.Service)
	return nil
}

// tellOfTwin tells once if another server has replaced this one's slice.
func (m *Member) tellOfTwin(slice discoveryv1.EndpointSlice) {
	here := func(e discoveryv1.Endpoint) bool { return slices.Contains(e.Addresses, m.Listen.Addr().String()) }
	if m.twin || slices.ContainsFunc(slice.Endpoints, here) {
		return
	}
	m.twin = true
	logrus.WithField("replica", m.name()).Errorf("another %s has the name of this one, and clients find only one of the two: give their machines different host names", m.What)
}

func addressType(a netip.AddrPort) discoveryv1.AddressType {
	if a.Addr().Is4() {
		return discoveryv1.AddressTypeIPv4
	}
	return discoveryv1.AddressTypeIPv6
}

// slice returns the server's EndpointSlice, for kube-proxies and API servers.
func (m *Member) slice() *discoveryapply.EndpointSliceApplyConfiguration {
	slice := discoveryapply.EndpointSlice(m.Of.ObjectPrefix()+m.name(), m.Of.Namespace).
		WithLabels(map[string]string{
			m.Of.Label:                   m.name(),
			discoveryv1.LabelServiceName: m.Of.Service,
			discoveryv1.LabelManagedBy:   m.Of.Owner,
		}).
		WithAddressType(addressType(m.Listen)).
		WithEndpoints(discoveryapply.Endpoint().WithAddresses(m.Listen.Addr().String()).
			WithConditions(discoveryapply.EndpointConditions().WithReady(true).WithServing(true).WithTerminating(false)))
	for _, p := range m.Ports {
		slice.WithPorts(discoveryapply.EndpointPort().WithName(p.Name).WithProtocol(p.Protocol).WithPort(int32(m.Listen.Port())))
	}
	return slice
}

// withdraw removes the server from the service.
func (m *Member) withdraw(ctx context.Context) error {
	m.inside = false
	err := m.Kube.DiscoveryV1().EndpointSlices(m.Of.Namespace).Delete(ctx, m.Of.ObjectPrefix()+m.name(), metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot take this %s out of the service: %w", m.What, err)
	}
	return nil
}

// Leave removes the server's objects.
func (m *Member) Leave(ctx context.Context) error {
	defer m.state.note(false, nil)
	if err := m.withdraw(ctx); err != nil {
		return err
	}
	return m.remove(ctx, m.name(), "")
}

// remove removes the objects of a server. It does nothing if the lease has another version than the given one: then the server has
// renewed it just now.
func (m *Member) remove(ctx context.Context, name, version string) error {
	var options metav1.DeleteOptions
	if version != "" {
		options.Preconditions = &metav1.Preconditions{ResourceVersion: &version}
	}
	err := m.Kube.CoordinationV1().Leases(m.Of.LeaseNamespace).Delete(ctx, m.Of.ObjectPrefix()+name, options)
	if apierrors.IsConflict(err) {
		return nil
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot remove the lease of the %s %s: %w", m.What, name, err)
	}
	err = m.Kube.DiscoveryV1().EndpointSlices(m.Of.Namespace).Delete(ctx, m.Of.ObjectPrefix()+name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot take the %s %s out of the service: %w", m.What, name, err)
	}
	return nil
}

// watch detects dead servers. It counts from when it saw a lease change, not from the time in the lease, because clocks differ. Its
// zero value is ready.
type watch struct {
	seen map[string]sighting
	last time.Time
}

// sighting is when a server's lease was first seen with this version.
type sighting struct {
	version string
	since   time.Time
}

// step takes the current versions of the other servers' leases, "" for a server without a lease, and returns those that did not renew
// for longer than lifetime, sorted. Time during which the API server was unreachable does not count: nobody could renew then.
func (w *watch) step(now time.Time, found map[string]string) (dead []string) {
	var unreachable time.Duration
	if gap := now.Sub(w.last); gap > 2*interval {
		unreachable = gap - interval
	}
	w.last = now
	seen := map[string]sighting{}
	for name, version := range found {
		s, known := w.seen[name]
		s.since = s.since.Add(unreachable)
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
