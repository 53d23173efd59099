package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Sandbox is a pod's sandbox as the network sees it.
type Sandbox struct {
	// ID is the sandbox's id, unique on the machine.
	ID string `json:"id"`
	// Pod is namespace/name, for comments of rules and for errors.
	Pod string `json:"pod"`
	// UID and Labels are the pod's, as the kubelet passed them. The network does not use them.
	UID    string            `json:"uid,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	// Annotations are the pod's.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Namespace is the path of the sandbox's network namespace, such as "/proc/123/ns/net".
	Namespace string `json:"namespace"`
	// Address is requested for the pod from outside the pod CIDR; usually not valid.
	Address netip.Addr `json:"address,omitzero"`
	// Ports are the pod's host ports.
	Ports []Port `json:"ports,omitempty"`
}

// Port maps a host port to a port of the pod
// (https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#ports).
type Port struct {
	// Protocol is "TCP", "UDP" or "SCTP".
	Protocol string `json:"protocol"`
	// HostIP is the machine's address that the port is on; all addresses if it is not valid or unspecified.
	HostIP        netip.Addr `json:"hostIP,omitzero"`
	HostPort      uint16     `json:"hostPort"`
	ContainerPort uint16     `json:"containerPort"`
}

// endpoint is a sandbox on the network, with its addresses.
type endpoint struct {
	Sandbox   Sandbox      `json:"sandbox"`
	Addresses []netip.Addr `json:"addresses"`
	// LinkLocal is the pod's IPv6 link-local address; not valid without IPv6, and for pods of older minions, which did not choose it.
	LinkLocal netip.Addr `json:"linkLocal,omitzero"`
}

// hardwareAddress is the one that the pod's device is made with.
func (s Sandbox) hardwareAddress() net.HardwareAddr { return localHardwareAddress("k8sm pod " + s.ID) }

// address returns the address of the family.
func (e endpoint) address(f Family) (netip.Addr, bool) {
	for _, address := range e.Addresses {
		if familyOf(address) == f {
			return address, true
		}
	}
	return netip.Addr{}, false
}

// store is a directory with one file per endpoint, one with the node's pod CIDRs, and one with the other nodes.
type store struct{ dir string }

const (
	endpointSuffix = ".endpoint"
	rangesFile     = "pod-cidrs"
	peersFile      = "peers"
)

// recorded is what a store has.
type recorded struct {
	podCIDRs  []string
	endpoints map[string]endpoint // by sandbox id
	peers     []Peer              // nil if unknown
}

// knownPeers are the other nodes as they were known in one boot of the machine. In the next one their addresses may be others'.
type knownPeers struct {
	Boot  string `json:"boot"`
	Peers []Peer `json:"peers"`
}

func (s store) endpointFile(id string) string { return filepath.Join(s.dir, id+endpointSuffix) }

// write writes the file atomically, in case this process is killed. It does not sync: after a crash of the machine the content is
// obsolete.
func (s store) write(path string, value any) error {
	data, err := json.Marshal(value)
	if err == nil {
		err = os.MkdirAll(s.dir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(path+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("cannot record the state of the pod network: %w", err)
	}
	return nil
}

func (s store) save(e endpoint) error { return s.write(s.endpointFile(e.Sandbox.ID), e) }

func (s store) saveRanges(podCIDRs []string) error {
	return s.write(filepath.Join(s.dir, rangesFile), podCIDRs)
}

func (s store) forget(id string) error {
	if err := os.Remove(s.endpointFile(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove a record of the pod network: %w", err)
	}
	return nil
}

func (s store) savePeers(peers []Peer) error {
	boot, err := bootID()
	if err != nil {
		return fmt.Errorf("cannot record the other nodes: %w", err)
	}
	return s.write(filepath.Join(s.dir, peersFile), knownPeers{boot, peers})
}

// bootID identifies the machine's boot (random(4)).
func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// load returns what an earlier process recorded, if anything.
func (s store) load() (r recorded, err error) {
	r.endpoints = map[string]endpoint{}
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	for _, entry := range entries {
		var e endpoint
		switch name := entry.Name(); {
		case name == rangesFile:
			err = errors.Join(err, s.read(name, &r.podCIDRs))
		case name == peersFile:
			err = errors.Join(err, s.loadPeers(&r))
		case strings.HasSuffix(name, endpointSuffix):
			if problem := s.read(name, &e); problem != nil {
				err = errors.Join(err, problem)
			} else {
				r.endpoints[e.Sandbox.ID] = e
			}
		}
	}
	return r, err
}

func (s store) loadPeers(r *recorded) error {
	var known knownPeers
	boot, err := bootID()
	if err == nil {
		err = s.read(peersFile, &known)
	}
	if err == nil && known.Boot == boot {
		r.peers = known.Peers
	}
	return err
}

func (s store) read(name string, value any) error {
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	if err == nil {
		err = json.Unmarshal(data, value)
	}
	if err != nil {
		return fmt.Errorf("cannot read the state of the pod network (%s): %w", filepath.Join(s.dir, name), err)
	}
	return nil
}

// remove removes all files.
func (s store) remove() error {
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("cannot remove the records of the pod network: %w", err)
	}
	return nil
}
