package machines

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Route maintains this machine's routes to the nodes' pod CIDRs through their machines until ctx ends. The API server needs them.
func (m *Machines) Route(ctx context.Context, client kubernetes.Interface) error {
	factory := informers.NewSharedInformerFactory(client, 0)
	nodes := factory.Core().V1().Nodes()
	changed := make(chan struct{}, 1)
	notice := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	_, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { notice() }, UpdateFunc: func(any, any) { notice() }, DeleteFunc: func(any) { notice() },
	})
	if err != nil {
		return fmt.Errorf("cannot watch the nodes: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		list, err := nodes.Lister().List(labels.Everything())
		if err == nil {
			err = m.setRoutes(m.podRoutes(list))
		}
		if err != nil {
			logrus.WithError(err).Warn("this machine may not reach the pods of a node")
		}
	}
}

// podRoutes maps the pod CIDRs to their machines.
func (m *Machines) podRoutes(nodes []*corev1.Node) map[netip.Prefix]netip.Addr {
	routes := map[netip.Prefix]netip.Addr{}
	for _, node := range nodes {
		for _, address := range node.Status.Addresses {
			via, err := netip.ParseAddr(address.Address)
			onBridge := slices.ContainsFunc(m.ranges, func(prefix netip.Prefix) bool { return prefix.Contains(via) })
			if err != nil || address.Type != corev1.NodeInternalIP || !onBridge {
				continue
			}
			for _, cidr := range node.Spec.PodCIDRs {
				if prefix, err := netip.ParsePrefix(cidr); err == nil && prefix.Addr().Is4() == via.Is4() {
					routes[prefix.Masked()] = via
				}
			}
		}
	}
	return routes
}

// routeProtocol marks the routes of this package. Others on the bridge are an operator's, and stay.
const routeProtocol netlink.RouteProtocol = 75

// setRoutes makes our routes through the bridge exactly the wanted ones.
func (m *Machines) setRoutes(wanted map[netip.Prefix]netip.Addr) error {
	bridge, err := netlink.LinkByName(m.bridge())
	if err != nil {
		return err
	}
	have, err := netlink.RouteList(bridge, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("cannot list the routes by %s: %w", m.bridge(), err)
	}
	for _, route := range have {
		if route.Gw == nil || route.Dst == nil || route.Protocol != routeProtocol {
			continue
		}
		destination, _ := prefixOf(route.Dst)
		if via, ok := wanted[destination]; ok && route.Gw.Equal(via.AsSlice()) {
			continue
		}
		if err := netlink.RouteDel(&route); err != nil {
			return fmt.Errorf("cannot remove the route to %s: %w", route.Dst, err)
		}
	}
	for prefix, via := range wanted {
		route := &netlink.Route{LinkIndex: bridge.Attrs().Index, Dst: networkOf(prefix.Addr(), prefix.Bits()), Gw: via.AsSlice(), Protocol: routeProtocol}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("cannot set the route to %s: %w", prefix, err)
		}
	}
	return nil
}
