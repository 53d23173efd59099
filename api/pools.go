package api

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// The ConfigMap with the AddressPools. Only schedulers write it, and nodes read it. The control plane creates it empty.
const (
	AddressPoolsNamespace = "kube-system"
	AddressPoolsName      = "k8sm-address-pools"
	AddressPoolsKey       = "pools.json"
)

// AddressPools are the addresses that pods may have besides those of pod CIDRs. Minions route no others that a node's annotation
// AnnotationPodPrefixes names.
type AddressPools struct {
	// Prefixes cover the pools exactly, in order.
	Prefixes []netip.Prefix `json:"prefixes"`
	// Masters are the addresses of the Mesos masters and ZooKeeper servers that the scheduler uses. No pod may have one of them, even
	// if it is in a pool.
	Masters []netip.Addr `json:"masters"`
}

// ReadAddressPools parses the data of the ConfigMap. It returns nil while no scheduler has written it: those of older versions do not.
func ReadAddressPools(data map[string]string) (*AddressPools, error) {
	text, ok := data[AddressPoolsKey]
	if !ok {
		return nil, nil
	}
	var p AddressPools
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return nil, fmt.Errorf("cannot read %s of ConfigMap %s/%s: %w", AddressPoolsKey, AddressPoolsNamespace, AddressPoolsName, err)
	}
	return &p, nil
}

// Data returns the data of the ConfigMap.
func (p AddressPools) Data() (map[string]string, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the address pools: %w", err)
	}
	return map[string]string{AddressPoolsKey: string(text)}, nil
}

// Contain reports whether all addresses of the prefix are in one prefix of the pools.
func (p AddressPools) Contain(prefix netip.Prefix) bool {
	return slices.ContainsFunc(p.Prefixes, func(pool netip.Prefix) bool {
		return pool.Bits() <= prefix.Bits() && pool.Contains(prefix.Addr())
	})
}

// APIServerSlices selects the EndpointSlices in namespace default that have the API servers' addresses
// (https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/).
const APIServerSlices = discoveryv1.LabelServiceName + "=kubernetes"

// SliceAddresses returns the addresses in EndpointSlices.
func SliceAddresses(list []discoveryv1.EndpointSlice) (addresses []netip.Addr) {
	for _, slice := range list {
		for _, endpoint := range slice.Endpoints {
			for _, text := range endpoint.Addresses {
				if address, err := netip.ParseAddr(text); err == nil {
					addresses = append(addresses, address)
				}
			}
		}
	}
	return addresses
}
