// Package nodeslices is how minions learn what they need of other nodes, without a watch of all Node objects: a Node is about 10 KB and
// changes with each image, pod and heartbeat, but a route to a node's pods depends on its addresses and prefixes alone.
//
// The leading scheduler writes these into a few ConfigMaps, the slices, of up to SliceSize nodes each, and then into one more, the
// summary, the digest of all of them, which it renews every RenewEvery. Slices are right for a reader if they have the digest that the
// summary says, and if the summary moves; see View and Trust. Otherwise the reader watches nodes. While neither is certain, it forgets
// no node that it knows.
//
// All of it is values: Of and Plan for the writer, Read and Trust for readers. The package must import nothing of k8sm but package api.
package nodeslices

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
)

// Node is what other nodes need of a node.
type Node struct {
	Name string `json:"name"`
	// Addresses are the InternalIPs, the first of each family.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// PodCIDRs are the ranges of its pods, and PodPrefixes is api.AnnotationPodPrefixes, with further ones.
	PodCIDRs    []netip.Prefix `json:"podCIDRs,omitempty"`
	PodPrefixes string         `json:"podPrefixes,omitempty"`
	// Agent is the address of its Mesos agent if it is none of Addresses.
	Agent netip.Addr `json:"agent,omitzero"`
}

// Of returns what other nodes need of a node.
func Of(node *corev1.Node) Node {
	n := Node{Name: node.Name, PodPrefixes: node.Annotations[api.AnnotationPodPrefixes]}
	for _, a := range node.Status.Addresses {
		address, err := netip.ParseAddr(a.Address)
		if a.Type != corev1.NodeInternalIP || err != nil {
			continue
		}
		if !slices.ContainsFunc(n.Addresses, func(b netip.Addr) bool { return b.Is4() == address.Is4() }) {
			n.Addresses = append(n.Addresses, address)
		}
	}
	for _, text := range node.Spec.PodCIDRs {
		if prefix, err := netip.ParsePrefix(text); err == nil { // the API server validates them
			n.PodCIDRs = append(n.PodCIDRs, prefix.Masked())
		}
	}
	agent, err := netip.ParseAddrPort(node.Annotations[api.AnnotationAgentAddress])
	if err == nil && !slices.Contains(n.Addresses, agent.Addr()) {
		n.Agent = agent.Addr()
	}
	return n
}

// Equal reports whether both are the same.
func (n Node) Equal(other Node) bool {
	return n.Name == other.Name && n.PodPrefixes == other.PodPrefixes && n.Agent == other.Agent &&
		slices.Equal(n.Addresses, other.Addresses) && slices.Equal(n.PodCIDRs, other.PodCIDRs)
}

func byName(a, b Node) int { return strings.Compare(a.Name, b.Name) }

// Encode returns the text of a slice with these nodes: a line of JSON for each, in the order of their names.
func Encode(nodes []Node) (string, error) {
	var out bytes.Buffer
	lines := json.NewEncoder(&out)
	lines.SetEscapeHTML(false)
	for _, node := range slices.SortedStableFunc(slices.Values(nodes), byName) {
		if err := lines.Encode(node); err != nil {
			return "", fmt.Errorf("cannot encode node %s: %w", node.Name, err)
		}
	}
	return out.String(), nil
}

// Decode is the inverse of Encode. It ignores fields that it does not know: later versions may have more.
func Decode(text string) (nodes []Node, err error) {
	for line := range strings.Lines(text) {
		var node Node
		if err := json.Unmarshal([]byte(line), &node); err != nil {
			return nil, fmt.Errorf("cannot read a slice of nodes: %w", err)
		}
		if node.Name == "" {
			return nil, fmt.Errorf("cannot read a slice of nodes: a node has no name: %q", strings.TrimSpace(line))
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

// Texts are the texts of slices by their names.
type Texts map[string]string

// Digest returns the digest of the slices. They have another one if any has another name or text.
func (t Texts) Digest() string {
	hash := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(t)) {
		fmt.Fprintf(hash, "%d %s %d %s", len(name), name, len(t[name]), t[name])
	}
	return hex.EncodeToString(hash.Sum(nil)[:16])
}

// SliceSize is how many nodes a slice has at most: a change of one node is told to all minions with the whole slice, and many nodes
// that come at once, with few slices.
const SliceSize = 50

// slicePrefix begins the names of slices.
const slicePrefix = "nodes-"

// Plan returns the slices that have exactly these nodes, and differ little from those that there are: a node keeps its slice, a new one
// goes to the fullest slice with room, and no slice is empty. What cannot be read is written anew.
func Plan(have Texts, nodes []Node) (Texts, error) {
	todo := map[string]Node{}
	for _, node := range nodes {
		todo[node.Name] = node
	}
	planned := map[string][]Node{}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		before, _ := Decode(have[name])
		for _, was := range before {
			if node, waits := todo[was.Name]; waits { // else it is gone, or another slice has it
				planned[name] = append(planned[name], node)
				delete(todo, was.Name)
			}
		}
	}
	for _, node := range slices.SortedFunc(maps.Values(todo), byName) {
		name := roomiest(planned)
		planned[name] = append(planned[name], node)
	}
	texts := Texts{}
	for name, nodes := range planned {
		text, err := Encode(nodes)
		if err != nil {
			return nil, err
		}
		texts[name] = text
	}
	return texts, nil
}

// roomiest returns the slice for a new node: the fullest with room, or a new one.
func roomiest(planned map[string][]Node) (best string) {
	for _, name := range slices.Sorted(maps.Keys(planned)) {
		if size := len(planned[name]); size < SliceSize && (best == "" || size > len(planned[best])) {
			best = name
		}
	}
	for i := 0; best == ""; i++ {
		if name := slicePrefix + strconv.Itoa(i); len(planned[name]) == 0 {
			best = name
		}
	}
	return best
}

// Changes returns the names of the slices that differ, in the order in which to write them: those that only lose nodes come first, so
// that a range that passes from one node to another has no two owners.
func Changes(have, want Texts) []string {
	names := maps.Clone(have)
	maps.Copy(names, want)
	maps.DeleteFunc(names, func(name, _ string) bool {
		before, was := have[name]
		after, is := want[name]
		return was == is && before == after
	})
	return slices.SortedFunc(maps.Keys(names), func(a, b string) int {
		if a, b := gains(have[a], want[a]), gains(have[b], want[b]); a != b {
			if b {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
}

// gains reports whether a line is in the text after that was not before.
func gains(before, after string) bool {
	lines := map[string]bool{}
	for line := range strings.Lines(before) {
		lines[line] = true
	}
	for line := range strings.Lines(after) {
		if !lines[line] {
			return true
		}
	}
	return false
}
