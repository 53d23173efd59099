package match

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/k8sm/k8sm/offers"
)

func requesting(cpu, memory, disk string) v1.ResourceRequirements {
	list := v1.ResourceList{}
	for name, text := range map[v1.ResourceName]string{
		v1.ResourceCPU: cpu, v1.ResourceMemory: memory, v1.ResourceEphemeralStorage: disk,
	} {
		if text != "" {
			list[name] = resource.MustParse(text)
		}
	}
	return v1.ResourceRequirements{Requests: list}
}

func TestDemandIsTheEffectiveRequestsOfThePod(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	for _, test := range []struct {
		rule string
		spec v1.PodSpec
		want Demand
	}{
		{
			"containers add up, bytes are rounded up to a thousandth of a MiB",
			v1.PodSpec{Containers: []v1.Container{
				{Resources: requesting("250m", "64Mi", "1Gi")}, {Resources: requesting("0.5", "1", "")},
			}},
			Demand{Scalars: [NumScalars]offers.Milli{750, 64_001, 1_024_000, 0}},
		},
		{
			"the biggest init container counts if it is bigger than the sum of the containers",
			v1.PodSpec{
				InitContainers: []v1.Container{{Resources: requesting("2", "32Mi", "")}, {Resources: requesting("1", "", "")}},
				Containers:     []v1.Container{{Resources: requesting("1", "64Mi", "")}},
			},
			Demand{Scalars: [NumScalars]offers.Milli{2000, 64_000, 0, 0}},
		},
		{
			"a sidecar runs beside the containers",
			v1.PodSpec{
				InitContainers: []v1.Container{{Resources: requesting("1", "16Mi", ""), RestartPolicy: &always}},
				Containers:     []v1.Container{{Resources: requesting("1", "64Mi", "")}},
			},
			Demand{Scalars: [NumScalars]offers.Milli{2000, 80_000, 0, 0}},
		},
		{
			"overhead is added",
			v1.PodSpec{
				Containers: []v1.Container{{Resources: requesting("1", "64Mi", "")}},
				Overhead:   v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")},
			},
			Demand{Scalars: [NumScalars]offers.Milli{1100, 64_000, 0, 0}},
		},
		{
			"a pod without requests is charged the defaults",
			v1.PodSpec{Containers: []v1.Container{{}}},
			Demand{Scalars: [NumScalars]offers.Milli{100, 64_000, 0, 0}},
		},
		{
			"gpus and host ports, each port once",
			v1.PodSpec{Containers: []v1.Container{{
				Resources: v1.ResourceRequirements{Requests: v1.ResourceList{
					v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse("1Mi"), GPUResource: resource.MustParse("2"),
				}},
				Ports: []v1.ContainerPort{{HostPort: 53, Protocol: v1.ProtocolUDP}, {HostPort: 53, Protocol: v1.ProtocolTCP}, {ContainerPort: 80}},
			}}},
			Demand{Scalars: [NumScalars]offers.Milli{1000, 1000, 0, 2000}, Ports: []uint64{53}},
		},
	} {
		if diff := cmp.Diff(test.want, DemandOf(&v1.Pod{Spec: test.spec}, 100, 64_000, nil)); diff != "" {
			t.Errorf("%s: %s", test.rule, diff)
		}
	}
}
