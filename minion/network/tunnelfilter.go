package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"sigs.k8s.io/knftables"
)

// tunnelFilter drops VXLAN packets that do not come from nodes. VXLAN itself asks nobody who sends: what is in a packet would be
// forwarded to pods. The filter is an nftables table with the peers' addresses in sets, so that a packet costs one look-up, however
// many there are. As the VXLAN device, the nodes of one machine share it.
type tunnelFilter struct {
	nft knftables.Interface // nil until it is first used
}

const (
	// tunnelChain comes before the filter chains of others.
	tunnelChain    = "vxlan"
	tunnelPriority = knftables.FilterPriority + "-10"
	// nftLimit bounds one call of nft.
	nftLimit = 10 * time.Second
)

// tunnelSet is the set of the peers' addresses of a family.
func tunnelSet(f Family) *knftables.Set {
	if f == IPv4 {
		return &knftables.Set{Name: "machines", Type: "ipv4_addr"}
	}
	return &knftables.Set{Name: "machines6", Type: "ipv6_addr"}
}

func (t *tunnelFilter) open(p Plan) (err error) {
	if t.nft == nil {
		t.nft, err = knftables.New(knftables.InetFamily, "k8sm-vxlan-"+Plan{Cluster: p.Cluster}.mark())
	}
	return err
}

// machines returns the peers' addresses.
func machines(peers []Peer) (list []netip.Addr) {
	for _, peer := range peers {
		list = append(list, peer.Addresses...)
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// apply accepts the plan's VXLAN packets from the peers only. It leaves the table alone if it is right.
func (t *tunnelFilter) apply(p Plan, peers []Peer) error {
	ctx, cancel := context.WithTimeout(context.Background(), nftLimit)
	defer cancel()
	err := t.open(p)
	from := machines(peers)
	if err == nil && !t.has(ctx, p, from) {
		err = t.nft.Run(ctx, t.replace(p, from))
	}
	if err != nil {
		return fmt.Errorf("cannot keep VXLAN packets of strangers from pods: any machine that reaches UDP port %d of this one can send them (Debian: apt-get install nftables): %w",
			p.Network.VXLANPort, err)
	}
	return nil
}

// replace returns the transaction that replaces the table.
func (t *tunnelFilter) replace(p Plan, from []netip.Addr) *knftables.Transaction {
	tx := t.nft.NewTransaction()
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	tx.Add(&knftables.Table{})
	tx.Add(&knftables.Chain{Name: tunnelChain, Type: knftables.PtrTo(knftables.FilterType), Hook: knftables.PtrTo(knftables.InputHook),
		Priority: knftables.PtrTo(tunnelPriority)})
	for family, header := range map[Family]string{IPv4: "ip", IPv6: "ip6"} {
		set := tunnelSet(family)
		tx.Add(set)
		// The VNI stands after UDP's header and four bytes of flags (https://www.rfc-editor.org/rfc/rfc7348#section-5). Others may
		// use the port with another one.
		tx.Add(&knftables.Rule{Chain: tunnelChain, Comment: knftables.PtrTo(p.tunnelText()),
			Rule: knftables.Concat(header, "saddr", "!=", "@"+set.Name, "udp dport", p.Network.VXLANPort, "@th,96,24", p.Network.VXLANVNI, "drop")})
	}
	for _, address := range from {
		tx.Add(&knftables.Element{Set: tunnelSet(familyOf(address)).Name, Key: []string{address.String()}})
	}
	return tx
}

func (p Plan) tunnelText() string {
	return fmt.Sprintf("VNI %d on port %d from machines only", p.Network.VXLANVNI, p.Network.VXLANPort)
}

// has reports whether the kernel has what replace writes. It compares the rules by their comments.
func (t *tunnelFilter) has(ctx context.Context, p Plan, from []netip.Addr) bool {
	rules, err := t.nft.ListRules(ctx, tunnelChain)
	if err != nil || len(rules) != 2 || slices.ContainsFunc(rules, func(r *knftables.Rule) bool { return r.Comment == nil || *r.Comment != p.tunnelText() }) {
		return false
	}
	var have []netip.Addr
	for _, family := range []Family{IPv4, IPv6} {
		elements, err := t.nft.ListElements(ctx, "set", tunnelSet(family).Name)
		if err != nil {
			return false
		}
		for _, element := range elements {
			address, err := netip.ParseAddr(element.Key[0])
			if err != nil {
				return false
			}
			have = append(have, address)
		}
	}
	slices.SortFunc(have, netip.Addr.Compare)
	return slices.Equal(have, from)
}

// remove removes the table, if it exists. Without nftables there is none.
func (t *tunnelFilter) remove(p Plan) error {
	if t.open(p) != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), nftLimit)
	defer cancel()
	tx := t.nft.NewTransaction()
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	if err := t.nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("cannot remove the filter of VXLAN packets: %w", err)
	}
	return nil
}
