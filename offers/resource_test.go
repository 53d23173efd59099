package offers

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func scalar(name string, amount float64, reserved bool) Resource {
	return Resource{Name: name, Scalar: MilliOf(amount), Reserved: reserved, Role: "*"}
}

func TestTakeUsesReservedResourcesFirst(t *testing.T) {
	rs := Resources{scalar(CPUs, 2, false), scalar(CPUs, 1, true), scalar(Mem, 64, false)}
	taken, rest, ok := rs.Take(CPUs, MilliOf(1.5))
	if !ok {
		t.Fatal("refused")
	}
	if diff := cmp.Diff(Resources{scalar(CPUs, 1, true), scalar(CPUs, 0.5, false)}, taken); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Resources{scalar(CPUs, 1.5, false), scalar(Mem, 64, false)}, rest); diff != "" {
		t.Error(diff)
	}
	if rs.Sum(CPUs) != MilliOf(3) {
		t.Error("Take changed its receiver")
	}
}

func TestTakeRefusesMoreThanThereIs(t *testing.T) {
	if _, _, ok := (Resources{scalar(CPUs, 1, false)}).Take(CPUs, 1001); ok {
		t.Error("took 1.001 of 1")
	}
}

func TestTenTenthsAreOneWhole(t *testing.T) {
	rs := Resources{scalar(CPUs, 1, false)}
	for range 10 {
		var ok bool
		if _, rs, ok = rs.Take(CPUs, MilliOf(0.1)); !ok {
			t.Fatal("a tenth was lost to rounding")
		}
	}
	if len(rs) != 0 {
		t.Errorf("left over: %v", rs)
	}
}

func TestFirstPortIsReservedAndThenTheLowest(t *testing.T) {
	rs := Resources{
		{Name: Ports, Ranges: []Range{{80, 81}}}, {Name: Ports, Reserved: true, Ranges: []Range{{500, 500}, {400, 400}}}, scalar(CPUs, 1, true),
	}
	if got := rs.PortCount(); got != 4 {
		t.Errorf("counted %d ports", got)
	}
	var order []uint64
	for port, ok := rs.FirstPort(); ok; port, ok = rs.FirstPort() {
		taken, _ := rs.DrawPort(port)
		if taken.Reserved != (port >= 400) {
			t.Errorf("port %d was taken of %v", port, taken)
		}
		order = append(order, port)
	}
	if diff := cmp.Diff([]uint64{400, 500, 80, 81}, order); diff != "" {
		t.Error(diff)
	}
}

func TestOtherRangesAreNoPorts(t *testing.T) {
	vlans := Resource{Name: "vlans", Reserved: true, Ranges: []Range{{1, 100}}}
	rs := Resources{vlans, {Name: Ports, Ranges: []Range{{50, 51}}}}
	if count, listed := rs.PortCount(), rs.PortRanges(); count != 2 || len(listed) != 1 {
		t.Errorf("counted %d ports, in %v", count, listed)
	}
	if port, ok := rs.FirstPort(); !ok || port != 50 {
		t.Errorf("the first port is %d, %v", port, ok)
	}
	if rs.HasPort(7) || rs.CountPort(50) != 1 {
		t.Error("a number of the vlans counts as a port")
	}
	if taken, ok := rs.DrawPort(50); !ok || taken.Name != Ports {
		t.Errorf("port 50 was taken of %v, %v", taken, ok)
	}
	if _, ok := rs.DrawPort(7); ok {
		t.Error("port 7 was taken of the vlans")
	}
	rest, cut := rs.WithoutPorts(Range{1, 1000})
	if got := rest.String(); got != "vlans:[1-100];ports:[]" || len(cut) != 1 {
		t.Errorf("without all ports it is %s; cut are %v", got, cut)
	}
	if _, ok := (Resources{vlans}).FirstPort(); ok {
		t.Error("vlans alone have a first port")
	}
}

func TestDrawPortSplitsItsRange(t *testing.T) {
	rs := Resources{{Name: Ports, Ranges: []Range{{80, 80}, {31000, 31002}}}}
	before := rs[0].Ranges
	taken, ok := rs.DrawPort(31001)
	if !ok || taken.String() != "ports:[31001-31001]" {
		t.Errorf("took %v, %v", taken, ok)
	}
	if got := rs.String(); got != "ports:[80-80,31000-31000,31002-31002]" {
		t.Errorf("left %s", got)
	}
	if rs.HasPort(31001) || !rs.HasPort(31002) {
		t.Error("the wrong port went away")
	}
	if diff := cmp.Diff([]Range{{80, 80}, {31000, 31002}}, before); diff != "" {
		t.Errorf("the ranges of the offer were changed: %s", diff)
	}
	if _, ok := rs.DrawPort(31001); ok {
		t.Error("a port was taken twice")
	}
}

func TestPortsOfARangeAreLeftOutAndTold(t *testing.T) {
	for text, want := range map[string][2]string{
		"31000-32000":             {"31000-32000", ""},
		"30000-30999":             {"", "30000-30999"},
		"29000-32000":             {"29000-29999,31000-32000", "30000-30999"},
		"29999-30000,30999-31000": {"29999-29999,31000-31000", "30000-30000,30999-30999"},
		"30500-30500,31001-31002": {"31001-31002", "30500-30500"},
	} {
		all := Resources{{Name: CPUs, Scalar: 1000}, {Name: Ports, Role: "r", Ranges: portRanges(t, text)}}
		rest, cut := all.WithoutPorts(Range{30000, 30999})
		if got := rest.String(); got != "cpus:1;ports:["+want[0]+"]" || rest[1].Role != "r" {
			t.Errorf("%s: left are %s", text, got)
		}
		if got := (Resource{Name: Ports, Ranges: cut}).String(); got != "ports:["+want[1]+"]" {
			t.Errorf("%s: cut are %s", text, got)
		}
		if got := all.String(); got != "cpus:1;ports:["+text+"]" {
			t.Errorf("%s: what was offered became %s", text, got)
		}
	}
}

func portRanges(t *testing.T, text string) (ranges []Range) {
	t.Helper()
	for _, part := range strings.Split(text, ",") {
		var r Range
		if _, err := fmt.Sscanf(part, "%d-%d", &r.Begin, &r.End); err != nil {
			t.Fatal(err)
		}
		ranges = append(ranges, r)
	}
	return ranges
}
