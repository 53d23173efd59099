package statedir

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// The certificates of a member that `km etcd` runs: EtcdMember for its clients, EtcdPeer for the other members.
const (
	EtcdMember Leaf = "etcd-member"
	EtcdPeer   Leaf = "etcd-peer"
)

// EtcdPeerUser is the name in members' certificates: nobody else may speak as a member, whatever the CA has signed.
const EtcdPeerUser = "k8sm-etcd-peer"

// EtcdSpec is the input for the certificates of a machine with a member of etcd, or with clients of one elsewhere.
type EtcdSpec struct {
	// Now is the time for expiry checks and for the validity of new certificates.
	Now time.Time
	// Names are the host names and IP addresses of the member; none for a machine without one.
	Names []string
	// New says that there is no such cluster yet, so that a missing CA is made.
	New bool
	// Lives are those of new certificates.
	Lives Lives
}

// memberLeaves are the certificates of a member with these names.
func memberLeaves(names []string) []leaf {
	return []leaf{
		{name: string(EtcdMember), authority: etcdAuthority, user: "etcd", hosts: names},
		{name: string(EtcdPeer), authority: etcdAuthority, user: EtcdPeerUser, hosts: names},
	}
}

// PrepareEtcd creates the certificates that a member of etcd and its administrator need, or keeps existing ones, as Prepare does: it may
// run again and again. A cluster that is there has a CA, which must be in the directory.
func (d Dir) PrepareEtcd(spec EtcdSpec) (err error) {
	for _, file := range []string{d.EtcdCA(), d.key(etcdAuthority)} {
		if _, err := os.Stat(file); err != nil && !spec.New {
			return fmt.Errorf("cannot reach a cluster that is there without its CA: copy pki/ of a machine with one of its members to %s first: %w", d.path("pki"), err)
		}
	}
	unlock, err := d.lockPKI()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	r := renewal{dir: d, spec: Spec{Now: spec.Now, Lives: spec.Lives}}
	ca, err := r.authority(etcdAuthority)
	if err != nil {
		return err
	}
	all := []leaf{{name: etcdClient, authority: etcdAuthority, user: EtcdRoot}}
	if len(spec.Names) > 0 {
		all = append(all, memberLeaves(spec.Names)...)
	}
	for _, l := range all {
		if _, err := r.leaf(l, ca); err != nil {
			return err
		}
	}
	return nil
}
