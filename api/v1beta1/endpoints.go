//nolint:staticcheck // the API of 2014 has Endpoints, and nothing else can write those without a selector
package v1beta1

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// WrittenEndpoints selects the Endpoints that somebody has written. A controller makes the others of a service's pods, whose
	// EndpointSlices say the same and more.
	WrittenEndpoints = managedBy + "!=" + endpointsController

	managedBy           = "endpoints.kubernetes.io/managed-by"
	endpointsController = "endpoint-controller"
	// mirroringController makes EndpointSlices of written Endpoints: discovery.LabelManagedBy says so.
	mirroringController = "endpointslicemirroring-controller.k8s.io"
	// maxEndpoints is how many endpoints with one port that controller takes. It leaves out the others.
	maxEndpoints = 1000
)

// FromV1Endpoints converts the endpoints of a service: those of its first port that are ready, in order. They are in the Endpoints
// with its name, which may be nil, and in all EndpointSlices of the service.
func FromV1Endpoints(o *v1.Service, written *v1.Endpoints, slicesOf []*discovery.EndpointSlice) *Endpoints {
	e := &Endpoints{Meta: fromV1(o), Endpoints: []string{}}
	e.Annotations, e.ResourceVersion = nil, 0
	name := firstPortOf(o).Name
	if written != nil && written.Labels[managedBy] != endpointsController {
		e.Annotations, e.ResourceVersion = fromV1(written).Annotations, ResourceVersion(written.ResourceVersion)
		e.Endpoints = append(e.Endpoints, readyOfSubsets(written.Subsets, name)...)
	}
	for _, s := range slicesOf {
		if s.Labels[discovery.LabelManagedBy] == mirroringController {
			continue
		}
		e.ResourceVersion = max(e.ResourceVersion, ResourceVersion(s.ResourceVersion))
		e.Endpoints = append(e.Endpoints, ready(s, name)...)
	}
	slices.Sort(e.Endpoints)
	e.Endpoints = slices.Compact(e.Endpoints)
	return e
}

// firstPortOf is the port of a service that v1beta1 knows. A service without ports has one without a name.
func firstPortOf(o *v1.Service) v1.ServicePort {
	if len(o.Spec.Ports) == 0 {
		return v1.ServicePort{Protocol: v1.ProtocolTCP}
	}
	return o.Spec.Ports[0]
}

// readyOfSubsets are the addresses that take traffic to a port.
func readyOfSubsets(subsets []v1.EndpointSubset, port string) []string {
	var list []string
	for i := range subsets {
		for _, p := range subsets[i].Ports {
			for j := range subsets[i].Addresses {
				if p.Name == port {
					list = appendEndpoint(list, subsets[i].Addresses[j].IP, p.Port)
				}
			}
		}
	}
	return list
}

// ready are the addresses of a slice that take traffic to a port.
func ready(s *discovery.EndpointSlice, port string) []string {
	var list []string
	for _, p := range s.Ports {
		if p.Port == nil || p.Name != nil && *p.Name != port || p.Name == nil && port != "" {
			continue
		}
		for i := range s.Endpoints {
			if r := s.Endpoints[i].Conditions.Ready; r != nil && !*r {
				continue
			}
			for _, a := range s.Endpoints[i].Addresses {
				list = appendEndpoint(list, a, *p.Port)
			}
		}
	}
	return list
}

// appendEndpoint leaves out names.
func appendEndpoint(list []string, address string, port int32) []string {
	if ip, err := netip.ParseAddr(address); err == nil {
		return append(list, netip.AddrPortFrom(ip, uint16(port)).String())
	}
	return list
}

// OverlayEndpoints returns stored Endpoints, which may be empty, with what a client has written over them: the endpoints of the first
// port of the service that they are of. All else stays: other ports, what is not ready, and what is known of an address.
//
// It is a *Status 422 for endpoints that no service can have. The caller compares the versions.
func OverlayEndpoints(stored *v1.Endpoints, of *v1.Service, e *Endpoints) (*v1.Endpoints, error) {
	ports, err := e.ports()
	if err != nil {
		return nil, err
	}
	o := stored.DeepCopy()
	o.Name, o.Namespace = of.Name, of.Namespace
	delete(o.Labels, managedBy)
	e.overlay(&o.ObjectMeta, o.Labels)
	port := firstPortOf(of)
	kept, known := keptSubsets(o.Subsets, port.Name, ports)
	o.Subsets = append(kept, subsets(port, ports, known)...)
	return o, nil
}

// ports are the endpoints as ports of addresses.
func (e *Endpoints) ports() (map[netip.Addr]uint16, error) {
	var c causes
	ports, perPort := map[netip.Addr]uint16{}, map[uint16]int{}
	for i, text := range e.Endpoints {
		wrong := func(reason metav1.CauseType, what, why string) {
			c.add(reason, fmt.Sprintf("endpoints[%d]", i), what, text, why)
		}
		at, err := netip.ParseAddrPort(text)
		ip := at.Addr().Unmap()
		other, there := ports[ip]
		switch {
		case err != nil || ip.Zone() != "" || at.Port() == 0:
			wrong(metav1.CauseTypeFieldValueInvalid, "invalid value", "give an address and a port, such as 10.1.2.3:6379 or [fd00::1]:6379")
		case ip.IsUnspecified() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast():
			wrong(metav1.CauseTypeFieldValueInvalid, "invalid value", "no node can send there: the address is one of its own machine or link")
		case there && other != at.Port():
			wrong(metav1.CauseTypeFieldValueDuplicate, "duplicate value", fmt.Sprintf("an address has one port today, and this one has %d already", other))
		case !there:
			ports[ip] = at.Port()
			if perPort[at.Port()]++; perPort[at.Port()] == maxEndpoints+1 {
				wrong(metav1.CauseTypeFieldValueInvalid, "invalid value", fmt.Sprintf("a service has %d endpoints with the same port at most", maxEndpoints))
			}
		}
	}
	return ports, c.invalid("endpoints", e.ID)
}

// keptSubsets are the parts of stored subsets that v1beta1 does not show, but for the addresses that it shows next. Known is what
// was stored of the others.
func keptSubsets(stored []v1.EndpointSubset, port string, next map[netip.Addr]uint16) (kept []v1.EndpointSubset, known map[string]v1.EndpointAddress) {
	known = map[string]v1.EndpointAddress{}
	for _, s := range stored {
		shown := func(p v1.EndpointPort) bool { return p.Name == port }
		others, ours := slices.DeleteFunc(slices.Clone(s.Ports), shown), slices.DeleteFunc(slices.Clone(s.Ports), func(p v1.EndpointPort) bool { return !shown(p) })
		if len(others) > 0 {
			kept = append(kept, v1.EndpointSubset{Addresses: s.Addresses, NotReadyAddresses: s.NotReadyAddresses, Ports: others})
		}
		if len(ours) == 0 {
			continue
		}
		for _, a := range s.Addresses {
			known[a.IP] = a
		}
		unready := slices.DeleteFunc(slices.Clone(s.NotReadyAddresses), func(a v1.EndpointAddress) bool {
			ip, _ := netip.ParseAddr(a.IP)
			_, there := next[ip.Unmap()]
			return there
		})
		if len(unready) > 0 {
			kept = append(kept, v1.EndpointSubset{NotReadyAddresses: unready, Ports: ours})
		}
	}
	return kept, known
}

// subsets has a subset for each number of the port, in order.
func subsets(port v1.ServicePort, ports map[netip.Addr]uint16, known map[string]v1.EndpointAddress) []v1.EndpointSubset {
	var list []v1.EndpointSubset
	order := slices.SortedFunc(maps.Keys(ports), func(a, b netip.Addr) int { return cmp.Or(cmp.Compare(ports[a], ports[b]), a.Compare(b)) })
	for _, ip := range order {
		number := int32(ports[ip])
		if len(list) == 0 || list[len(list)-1].Ports[0].Port != number {
			list = append(list, v1.EndpointSubset{Ports: []v1.EndpointPort{{Name: port.Name, Port: number, Protocol: port.Protocol, AppProtocol: port.AppProtocol}}})
		}
		address, ok := known[ip.String()]
		if !ok {
			address.IP = ip.String()
		}
		last := &list[len(list)-1]
		last.Addresses = append(last.Addresses, address)
	}
	return list
}
