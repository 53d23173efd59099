package targets

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

// lines are the targets of jobs: "job URL {labels}", sorted. The default path and scheme are those of the job.
func lines(jobs map[string][]*targetgroup.Group) (all []string) {
	for job, groups := range jobs {
		for _, g := range groups {
			for _, t := range g.Targets {
				line := fmt.Sprintf("%s %s%s", job, t[model.AddressLabel], t[model.MetricsPathLabel])
				if scheme := t[model.SchemeLabel]; scheme != "" {
					line = fmt.Sprintf("%s %s://%s%s", job, scheme, t[model.AddressLabel], t[model.MetricsPathLabel])
				}
				for _, name := range slices.Sorted(maps.Keys(t)) {
					if param, ok := strings.CutPrefix(string(name), model.ParamLabelPrefix); ok {
						line += "?" + param + "=" + string(t[name])
					}
				}
				if len(g.Labels) > 0 {
					line += " " + g.Labels.String()
				}
				all = append(all, line)
			}
		}
	}
	slices.Sort(all)
	return all
}

func asking(name string, change func(*Pod)) Pod {
	p := Pod{Namespace: "ns", Name: name, Node: "n1", Address: "10.244.0.9", Ports: []int{8080}, Annotations: map[string]string{}}
	if change != nil {
		change(&p)
	}
	return p
}

func TestTargetsOfAWorld(t *testing.T) {
	annotated := func(pairs ...string) func(*Pod) {
		return func(p *Pod) {
			for pair := range slices.Chunk(pairs, 2) {
				p.Annotations[pair[0]] = pair[1]
			}
		}
	}
	pod := ` {namespace="ns", node="n1", pod="p"}`
	for name, test := range map[string]struct {
		world World
		want  []string
		left  []string
	}{
		"the control plane": {
			world: World{
				Fixed:      map[string][]string{JobEtcd: {"127.0.0.1:2379"}, JobDNS: {"127.0.0.1:10063", "127.0.0.1:10064"}, JobMetrics: {"10.0.0.1:10260"}},
				APIServers: []string{"10.0.0.1:6443", "10.0.0.2:6443"}, Scheduler: "10.0.0.3:10259",
			},
			want: []string{
				"apiserver 10.0.0.1:6443", "apiserver 10.0.0.2:6443", "coredns 127.0.0.1:10063", "coredns 127.0.0.1:10064", "etcd 127.0.0.1:2379",
				"k8sm-metrics 10.0.0.1:10260", "k8sm-scheduler 10.0.0.3:10259", "mesos 10.0.0.3:10259",
			},
		},
		"no scheduler leads": {world: World{APIServers: []string{"10.0.0.1:6443"}}, want: []string{"apiserver 10.0.0.1:6443"}},
		"a node": {
			world: World{Nodes: []Node{{Name: "n1", Address: "fd00::5", Kubelet: 10250, Status: "10268"}}},
			want: []string{
				`k8sm-minion [fd00::5]:10268 {node="n1"}`, `kube-proxy [fd00::5]:10268 {node="n1"}`,
				`kubelet [fd00::5]:10250/metrics {node="n1"}`, `kubelet [fd00::5]:10250/metrics/cadvisor {node="n1"}`,
				`kubelet [fd00::5]:10250/metrics/probes {node="n1"}`, `kubelet [fd00::5]:10250/metrics/resource {node="n1"}`,
			},
		},
		"a node that lies about its minion's port": {
			world: World{Nodes: []Node{{Name: "n1", Address: "10.0.0.5", Kubelet: 10250, Status: "1/../../x@evil"}}},
			want: []string{
				`kubelet 10.0.0.5:10250/metrics {node="n1"}`, `kubelet 10.0.0.5:10250/metrics/cadvisor {node="n1"}`,
				`kubelet 10.0.0.5:10250/metrics/probes {node="n1"}`, `kubelet 10.0.0.5:10250/metrics/resource {node="n1"}`,
			},
		},
		"a pod":                    {world: World{Pods: []Pod{asking("p", nil)}}, want: []string{"pods http://10.244.0.9:8080/metrics" + pod}},
		"a pod with an app":        {world: World{Pods: []Pod{asking("p", func(p *Pod) { p.App = "web" })}}, want: []string{`pods http://10.244.0.9:8080/metrics {app="web", namespace="ns", node="n1", pod="p"}`}},
		"a port of its choice":     {world: World{Pods: []Pod{asking("p", annotated(AnnotationPort, "9102"))}}, want: []string{"pods http://10.244.0.9:9102/metrics" + pod}},
		"a path and a scheme":      {world: World{Pods: []Pod{asking("p", annotated(AnnotationPath, "/m/x?of=all", AnnotationScheme, "https"))}}, want: []string{"pods https://10.244.0.9:8080/m/x?of=all" + pod}},
		"an IPv6 address":          {world: World{Pods: []Pod{asking("p", func(p *Pod) { p.Address = "fd00::9" })}}, want: []string{"pods http://[fd00::9]:8080/metrics" + pod}},
		"two ports and no choice":  {world: World{Pods: []Pod{asking("p", func(p *Pod) { p.Ports = []int{1, 2} })}}, left: []string{"ns/p: give prometheus.io/port, a port"}},
		"a port that is none":      {world: World{Pods: []Pod{asking("p", annotated(AnnotationPort, "80@evil"))}}, left: []string{"ns/p: give prometheus.io/port, a port"}},
		"a path that is none":      {world: World{Pods: []Pod{asking("p", annotated(AnnotationPath, "http://evil/"))}}, left: []string{"ns/p: prometheus.io/path is a path, such as /metrics"}},
		"a scheme that is none":    {world: World{Pods: []Pod{asking("p", annotated(AnnotationScheme, "file"))}}, left: []string{`ns/p: prometheus.io/scheme is http or https, not "file"`}},
		"a node lies: loopback":    {world: World{Pods: []Pod{asking("p", func(p *Pod) { p.Address = "127.0.0.1" })}}, left: []string{`ns/p: cannot read from the address "127.0.0.1"`}},
		"a node lies: cloud":       {world: World{Pods: []Pod{asking("p", func(p *Pod) { p.Address = "169.254.169.254" })}}, left: []string{`ns/p: cannot read from the address "169.254.169.254"`}},
		"a node lies: unspecified": {world: World{Pods: []Pod{asking("p", func(p *Pod) { p.Address = "::" })}}, left: []string{`ns/p: cannot read from the address "::"`}},
	} {
		t.Run(name, func(t *testing.T) {
			jobs, left := test.world.Targets()
			if diff := cmp.Diff(test.want, lines(jobs)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.left, left); diff != "" {
				t.Errorf("left out (-want +got):\n%s", diff)
			}
		})
	}
}

func TestANamespaceWithManyPodsTakesNoPlaceOfOthers(t *testing.T) {
	var w World
	for i := range 2 * maxPods {
		w.Pods = append(w.Pods, asking(fmt.Sprintf("p%04d", i), func(p *Pod) { p.Namespace = "greedy" }))
	}
	for i := range 3 {
		w.Pods = append(w.Pods, asking(fmt.Sprint("p", i), func(p *Pod) { p.Namespace = "modest" }))
	}
	jobs, left := w.Targets()
	of := map[string]int{}
	for _, g := range jobs[JobPods] {
		of[string(g.Labels["namespace"])]++
	}
	if of["modest"] != 3 || of["greedy"] != maxPods-3 {
		t.Errorf("chosen are %v", of)
	}
	if want := fmt.Sprintf("greedy: %d pods beyond %d of the cluster", maxPods+3, maxPods); !slices.Equal(left, []string{want}) {
		t.Errorf("left out are %q, want %q", left, want)
	}
}

func TestPodsThatAreRead(t *testing.T) {
	asks := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", Annotations: map[string]string{AnnotationScrape: "true"}},
			Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
				{ContainerPort: 53, Protocol: corev1.ProtocolUDP}, {ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}}},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.244.0.9"},
		}
		change(p)
		return p
	}
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		want bool
	}{
		"it runs and asks":  {asks(func(*corev1.Pod) {}), true},
		"it does not ask":   {asks(func(p *corev1.Pod) { p.Annotations[AnnotationScrape] = "false" }), false},
		"it waits":          {asks(func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }), false},
		"it has no address": {asks(func(p *corev1.Pod) { p.Status.PodIP = "" }), false},
		"it goes":           {asks(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }), false},
	} {
		kept, err := essence(test.pod)
		if err != nil {
			t.Fatal(err)
		}
		p, got := podOf(kept.(*corev1.Pod))
		if got != test.want || got && (!slices.Equal(p.Ports, []int{8080}) || p.Node != "n1") {
			t.Errorf("%s: %t, %+v", name, got, p)
		}
	}
}

func TestNodesThatAreRead(t *testing.T) {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{api.AnnotationStatusPort: "10268", "x": "y"}},
		Status: corev1.NodeStatus{
			Addresses:       []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "h"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.5"}, {Type: corev1.NodeInternalIP, Address: "fd00::5"}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: 10250}},
		},
	}
	kept, err := essence(node)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := nodeOf(kept.(*corev1.Node))
	if diff := cmp.Diff(Node{Name: "n1", Address: "10.0.0.5", Kubelet: 10250, Status: "10268"}, got); !ok || diff != "" {
		t.Errorf("%t (-want +got):\n%s", ok, diff)
	}
	if _, ok := nodeOf(&corev1.Node{}); ok {
		t.Error("a node that no kubelet has written is read")
	}
}

// TestHistogramsThatAreShownAreKept looks at the rules and dashboards that km ships.
func TestHistogramsThatAreShownAreKept(t *testing.T) {
	found := 0
	kept := func(name string) bool {
		return slices.ContainsFunc(buckets, func(b string) bool { return b == name || b == "k8sm_.*" && strings.HasPrefix(name, "k8sm_") })
	}
	for _, dir := range []string{"../rules", "../../dashboards"} {
		files, err := os.ReadDir(dir)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if file.IsDir() {
				continue
			}
			text, err := os.ReadFile(dir + "/" + file.Name())
			if err != nil {
				t.Fatal(err)
			}
			for _, word := range strings.FieldsFunc(string(text), func(r rune) bool {
				return r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
			}) {
				if name, ok := strings.CutSuffix(word, "_bucket"); ok {
					if found++; !kept(name) {
						t.Errorf("%s shows %s, which is dropped", file.Name(), word)
					}
				}
			}
		}
	}
	if found == 0 {
		t.Error("no rule has a histogram: this guards nothing")
	}
}
