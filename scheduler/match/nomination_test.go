package match

import (
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

func TestNominatedPlaceIsForPodsOfHigherPriorityOnly(t *testing.T) {
	demand := func(cpus offers.Milli, ports ...uint64) Demand {
		return Demand{Scalars: [NumScalars]offers.Milli{cpus, 64_000}, Ports: ports}
	}
	newPod := func(order int, priority int32, d Demand) *Pod {
		return &Pod{Obj: &v1.Pod{Spec: v1.PodSpec{Priority: &priority}}, Order: order, Demand: d}
	}
	for _, test := range []struct {
		rule      string
		pod       *Pod
		nominated string // the node that the pod itself is nominated to
		want      bool
	}{
		{"lower priority", newPod(2, 9, demand(2000)), "", false},
		{"equal priority", newPod(2, 10, demand(2000)), "", false},
		{"higher priority", newPod(2, 11, demand(2000)), "", true},
		{"what the nominated pod leaves is free", newPod(2, 9, demand(1000)), "", true},
		{"but not its port", newPod(2, 9, demand(1000, 31000)), "", false},
		{"another port is free", newPod(2, 9, demand(1000, 31001)), "", true},
		{"equal priority, nominated there, arrived later", newPod(2, 10, demand(2000)), "n1", false},
		{"equal priority, nominated there, arrived earlier", newPod(0, 10, demand(2000)), "n1", true},
		{"equal priority, nominated elsewhere, arrived earlier", newPod(0, 10, demand(2000)), "n2", false},
	} {
		nominee := newPod(1, 10, demand(3000, 31000))
		nominee.nominated = "n1"
		if test.nominated != "" {
			test.pod.nominated = test.nominated
		}
		v := roomyView() // 4 cpus
		v.Agent.Node = "n1"
		v.Agent.nominees = []*Pod{nominee, test.pod}
		v.computeFree()
		if r := v.check(newClass(keyOf(test.pod), test.pod)); r.ok() != test.want || !r.ok() && r.reason != nominated {
			t.Errorf("%s: %+v", test.rule, r)
		}
		v.Agent.nominees = v.Agent.nominees[:1]
		if r := v.check(newClass(keyOf(nominee), nominee)); !r.ok() {
			t.Errorf("the nominated pod is refused: %+v", r)
		}
	}
}

func TestPlacingTheNominatedPodFreesNothingForOthers(t *testing.T) {
	needs := func(order int) []*Pod {
		wildcards := []api.PortMapping{{ContainerPort: 80, Protocol: "TCP"}}
		pods := []*Pod{
			{Demand: Demand{Scalars: [NumScalars]offers.Milli{2500, 64_000}}},
			{Demand: Demand{Scalars: [NumScalars]offers.Milli{100, 64_000}, Ports: []uint64{31000}}},
			{Demand: Demand{Scalars: [NumScalars]offers.Milli{100, 64_000}, Ports: []uint64{31000, 31001}}},
			{Demand: Demand{Scalars: [NumScalars]offers.Milli{100, 64_000}}, Asks: &Asks{wildcards: wildcards}},
			{Demand: Demand{Scalars: [NumScalars]offers.Milli{0, 64_000}}, Asks: &Asks{revocable: 2000}},
		}
		for _, p := range pods {
			p.Obj, p.Order = &v1.Pod{}, order
		}
		return pods
	}
	ports := func(first, last uint64) offers.Resource {
		return offers.Resource{Name: offers.Ports, Ranges: []offers.Range{{Begin: first, End: last}}}
	}
	refusals := 0
	for _, offered := range [][]offers.Resource{
		{ports(31000, 31000)}, {ports(31000, 31001)}, {ports(31000, 31001), ports(31000, 31001)},
	} {
		for i := range needs(1) {
			for j := range needs(2) {
				nominee, other := needs(1)[i], needs(2)[j]
				nominee.nominated = "n1"
				v := roomyView() // 4 cpus
				v.Free = append(v.Free[:3:3], offered...)
				v.Free = append(v.Free, offers.Resource{Name: offers.RevocableCPUs, Scalar: 3000})
				v.executor.Prepared, v.Agent.Node, v.Agent.nominees = true, "n1", []*Pod{nominee}
				v.computeFree()
				c := newClass(keyOf(other), other)
				before := v.check(c)
				if before.ok() || !v.check(newClass(keyOf(nominee), nominee)).ok() {
					continue
				}
				refusals++
				v.Take(nominee)
				v.reserved = []*Pod{nominee}
				if v.check(c).ok() {
					t.Errorf("ports %v: after the nominated pod %v was placed, %v fits", offered, nominee.needs(), other.needs())
				}
			}
		}
	}
	if refusals < 10 {
		t.Errorf("only %d pods were refused", refusals)
	}
}
