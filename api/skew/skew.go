// Package skew is Kubernetes' version skew policy (https://kubernetes.io/releases/version-skew-policy/): which versions of its parts may
// run side by side, and which one may take over the data of another. It decides by minor versions, as that policy does, and by values
// alone. It must never import a package that reads a cluster.
//
// Start reading at Newer.
package skew

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/version"
)

const (
	// kubeletsBehind is how many minor versions a kubelet may be older than an API server, and so is a kube-proxy.
	kubeletsBehind = 3
	// serversApart is how many minor versions API servers may be apart. That is also how far one may go in one step, forth or back.
	serversApart = 1
)

// Server is an API server of a cluster.
type Server struct {
	// Address is its "host:port".
	Address string `json:"address"`
	// Version is that of its Kubernetes, such as "v1.36.3"; "" if it has told none.
	Version string `json:"version,omitempty"`
}

// minor returns the number of a minor version; ok is false if the text is no version. Kubernetes has never left its major version 1: a
// later one counts as far away. A km that was linked without Kubernetes' version tells v0.0.0, which says nothing.
func minor(text string) (number int, ok bool) {
	v, err := version.ParseGeneric(text)
	if err != nil || v.Major() == 0 {
		return 0, false
	}
	return int(v.Major())*1000 + int(v.Minor()), true
}

// Behind returns by how many minor versions one version is older than another; negative if it is newer. ok is false if either is no
// version.
func Behind(one, other string) (minors int, ok bool) {
	a, known := minor(one)
	b, also := minor(other)
	return b - a, known && also
}

// known are the servers whose versions are known, the oldest first.
func known(servers []Server) []Server {
	list := slices.DeleteFunc(slices.Clone(servers), func(s Server) bool { _, ok := minor(s.Version); return !ok })
	slices.SortStableFunc(list, func(a, b Server) int {
		x, _ := minor(a.Version)
		y, _ := minor(b.Version)
		return cmp.Compare(x, y)
	})
	return list
}

// Newer returns which API server a kubelet of this version must not run beside, because it is newer; "" for none. A kube-proxy of the
// same version may run there if the kubelet may.
func Newer(kubelet string, servers []Server) string {
	list := known(servers)
	if len(list) == 0 {
		return ""
	}
	if by, ok := Behind(kubelet, list[0].Version); !ok || by >= 0 {
		return ""
	}
	return fmt.Sprintf("kubelet %s is newer than the API server at %s, %s: upgrade that first", kubelet, list[0].Address, list[0].Version)
}

// Unknown returns which API server has told no version, so that nobody knows what may run beside it; "" if all have.
func Unknown(servers []Server) string {
	for _, s := range servers {
		if _, ok := minor(s.Version); !ok {
			return fmt.Sprintf("the API server at %s has not told its version yet", s.Address)
		}
	}
	return ""
}

// TooOld returns which API server a kubelet of this version must not run beside, because it is too old; "" for none.
func TooOld(kubelet string, servers []Server) string {
	list := known(servers)
	if len(list) == 0 {
		return ""
	}
	newest := list[len(list)-1]
	if by, ok := Behind(kubelet, newest.Version); !ok || by <= kubeletsBehind {
		return ""
	}
	return fmt.Sprintf("kubelet %s is more than %d minor versions older than the API server at %s, %s", kubelet, kubeletsBehind, newest.Address, newest.Version)
}

// Apart returns which API servers must not run side by side; "" if all may.
func Apart(servers []Server) string {
	list := known(servers)
	if len(list) == 0 {
		return ""
	}
	oldest, newest := list[0], list[len(list)-1]
	if by, _ := Behind(oldest.Version, newest.Version); by <= serversApart {
		return ""
	}
	return fmt.Sprintf("the API servers at %s, %s, and %s, %s, are more than one minor version apart", oldest.Address, oldest.Version, newest.Address, newest.Version)
}

// Step says whether an API server may take over data that API servers up to a newest version have written. The error says why it must
// not. The warning says what may be lost; "" for nothing. A newest version that is "" or unknown forbids nothing.
func Step(server, newest string) (warning string, err error) {
	by, ok := Behind(server, newest)
	switch {
	case !ok || by == 0:
		return "", nil
	case by > serversApart:
		return "", fmt.Errorf("its objects were written by Kubernetes %s, which %s cannot read for sure: it is more than one minor version older", newest, server)
	case by > 0:
		return fmt.Sprintf("Kubernetes %s has written objects here: what only that version knows is lost when %s changes them", newest, server), nil
	case -by > serversApart:
		return "", fmt.Errorf("its objects were written by Kubernetes %s, and %s is more than one minor version newer: no minor version may be skipped", newest, server)
	}
	return "", nil
}
