package policy

import (
	"net/netip"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
)

// FuzzIPBlock reads the IP blocks of policies: an address is in the spans if it is in the range and in no exception.
func FuzzIPBlock(f *testing.F) {
	f.Add("10.0.0.0/8", "10.1.0.0/16,10.255.255.255/32", "10.1.2.3")
	f.Add("0.0.0.0/0", "0.0.0.0/1,128.0.0.0/1", "1.2.3.4")
	f.Add("::/0", "fd00::/8", "::ffff:1.2.3.4")
	f.Add("10.0.0.1/8", "", "10.0.0.0")
	f.Add("", "", "")
	f.Add("::ffff:10.0.0.0/104", "10.0.0.0/8", "10.0.0.1")
	f.Fuzz(func(t *testing.T, cidr, exceptions, text string) {
		block := &networkingv1.IPBlock{CIDR: cidr}
		if exceptions != "" {
			block.Except = strings.Split(exceptions, ",")
		}
		spans, err := blockSpans(block)
		address, addressErr := netip.ParseAddr(text)
		if err != nil || addressErr != nil || address.Zone() != "" {
			return
		}
		within := func(cidr string) bool { return netip.MustParsePrefix(cidr).Contains(address) }
		want := within(cidr)
		for _, except := range block.Except {
			want = want && !within(except)
		}
		got := false
		for _, s := range spans {
			if s.last.Less(s.first) {
				t.Errorf("%v has the span %s-%s", block, s.first, s.last)
			}
			got = got || s.first.BitLen() == address.BitLen() && !address.Less(s.first) && !s.last.Less(address)
		}
		if got != want {
			t.Errorf("%v has %s: %t, want %t (%v)", block, address, got, want, spans)
		}
	})
}
