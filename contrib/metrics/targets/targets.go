// Package targets knows what a cluster's metrics server reads: where each part of the cluster serves its metrics, under which names, and
// with which certificates. It says so in Prometheus' words: Scrape is a configuration of jobs
// (https://prometheus.io/docs/prometheus/latest/configuration/configuration/#scrape_config), and Follow finds their targets.
//
// Start reading at World, which has all that targets depend on. The package must never import k8s.io/kubernetes.
package targets

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
)

// Names of jobs. They are the usual ones, so that dashboards of others find them.
const (
	JobAPIServer = "apiserver"
	JobEtcd      = "etcd"
	JobKubelet   = "kubelet"
	JobProxy     = "kube-proxy"
	JobMinion    = "k8sm-minion"
	JobScheduler = "k8sm-scheduler"
	JobMesos     = "mesos"
	JobDNS       = "coredns"
	JobMetrics   = "k8sm-metrics"
	JobLogs      = "k8sm-logs"
	JobPods      = "pods"
)

// Annotations by which a pod asks for its metrics to be read, as with many Prometheus configurations.
const (
	AnnotationScrape = "prometheus.io/scrape" // "true"
	AnnotationPort   = "prometheus.io/port"   // the default is the pod's only container port
	AnnotationPath   = "prometheus.io/path"   // the default is /metrics; it may have a query
	AnnotationScheme = "prometheus.io/scheme" // http, the default, or https, whose certificate nobody can check
)

// maxPods bounds how many pods are read. Each may have podSampleLimit series.
const maxPods = 500

// World is what targets depend on.
type World struct {
	// Fixed targets are those beside this metrics server: "host:port", by job.
	Fixed map[string][]string
	// APIServers are the addresses of all API servers.
	APIServers []string
	// Scheduler is where the leading scheduler serves its status; "" if none does.
	Scheduler string
	// Nodes are those with a kubelet.
	Nodes []Node
	// Pods are those that run, have an address and the annotation.
	Pods []Pod
}

// Node is a node that a minion runs on.
type Node struct {
	Name    string
	Address string // the first InternalIP
	Kubelet int    // the kubelet's port
	Status  string // the minion's port, in its own words; "" if it serves none
}

// Pod is a pod that asks for its metrics to be read.
type Pod struct {
	Namespace, Name, Node string
	Address               string
	App                   string // what its labels call it
	Ports                 []int  // of its containers
	Annotations           map[string]string
}

// Targets are the targets of all jobs. left says which pods ask in vain and why, sorted.
func (w World) Targets() (jobs map[string][]*targetgroup.Group, left []string) {
	jobs = map[string][]*targetgroup.Group{}
	add := func(job, source string, labels model.LabelSet, targets ...model.LabelSet) {
		jobs[job] = append(jobs[job], &targetgroup.Group{Source: job + "/" + source, Labels: labels, Targets: targets})
	}
	for job, addresses := range w.Fixed {
		add(job, "", nil, at(addresses...)...)
	}
	add(JobAPIServer, "", nil, at(w.APIServers...)...)
	if w.Scheduler != "" {
		add(JobScheduler, "", nil, at(w.Scheduler)...)
		add(JobMesos, "", nil, at(w.Scheduler)...)
	}
	for _, node := range w.Nodes {
		label := model.LabelSet{"node": model.LabelValue(node.Name)}
		for _, path := range []string{"/metrics", "/metrics/cadvisor", "/metrics/probes", "/metrics/resource"} {
			target := at(net.JoinHostPort(node.Address, strconv.Itoa(node.Kubelet)))[0]
			target[model.MetricsPathLabel] = model.LabelValue(path)
			add(JobKubelet, node.Name+path, label, target)
		}
		if port, err := strconv.ParseUint(node.Status, 10, 16); err == nil && port > 0 { // a node writes it
			minion := net.JoinHostPort(node.Address, strconv.Itoa(int(port)))
			add(JobMinion, node.Name, label, at(minion)...)
			add(JobProxy, node.Name, label, at(minion)...)
		}
	}
	pods, left := choose(w.Pods)
	for _, pod := range pods {
		target, err := pod.target()
		if err != nil {
			left = append(left, pod.Namespace+"/"+pod.Name+": "+err.Error())
			continue
		}
		add(JobPods, pod.Namespace+"/"+pod.Name, pod.labels(), target)
	}
	slices.Sort(left)
	return jobs, left
}

func at(addresses ...string) (targets []model.LabelSet) {
	for _, a := range addresses {
		targets = append(targets, model.LabelSet{model.AddressLabel: model.LabelValue(a)})
	}
	return targets
}

// choose returns maxPods pods at most: a namespace with many does not take the place of others'.
func choose(pods []Pod) (chosen []Pod, left []string) {
	if len(pods) <= maxPods {
		return pods, nil
	}
	byNamespace := map[string][]Pod{}
	for _, p := range pods {
		byNamespace[p.Namespace] = append(byNamespace[p.Namespace], p)
	}
	namespaces := slices.Sorted(maps.Keys(byNamespace))
	for round := 0; len(chosen) < maxPods; round++ {
		for _, n := range namespaces {
			of := byNamespace[n]
			slices.SortFunc(of, func(a, b Pod) int { return cmp.Compare(a.Name, b.Name) })
			if round < len(of) && len(chosen) < maxPods {
				chosen = append(chosen, of[round])
			}
		}
	}
	for _, n := range namespaces {
		taken := 0
		for _, p := range chosen {
			if p.Namespace == n {
				taken++
			}
		}
		if more := len(byNamespace[n]) - taken; more > 0 {
			left = append(left, n+": "+strconv.Itoa(more)+" pods beyond "+strconv.Itoa(maxPods)+" of the cluster")
		}
	}
	return chosen, left
}

// target is where the pod serves its metrics. A pod's owner writes the annotations, and its node the address.
func (p Pod) target() (model.LabelSet, error) {
	ip, err := netip.ParseAddr(p.Address)
	if err != nil || !ip.IsGlobalUnicast() {
		return nil, fmt.Errorf("cannot read from the address %q", p.Address)
	}
	port := p.Annotations[AnnotationPort]
	if port == "" && len(p.Ports) == 1 {
		port = strconv.Itoa(p.Ports[0])
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		return nil, fmt.Errorf("give %s, a port", AnnotationPort)
	}
	scheme := cmp.Or(p.Annotations[AnnotationScheme], "http")
	if scheme != "http" && scheme != "https" {
		return nil, fmt.Errorf("%s is http or https, not %q", AnnotationScheme, scheme)
	}
	path, err := url.ParseRequestURI(cmp.Or(p.Annotations[AnnotationPath], "/metrics"))
	if err != nil || path.Host != "" || !strings.HasPrefix(path.Path, "/") {
		return nil, fmt.Errorf("%s is a path, such as /metrics", AnnotationPath)
	}
	target := model.LabelSet{
		model.AddressLabel: model.LabelValue(net.JoinHostPort(p.Address, port)), model.SchemeLabel: model.LabelValue(scheme),
		model.MetricsPathLabel: model.LabelValue(path.Path),
	}
	for name, values := range path.Query() {
		target[model.ParamLabelPrefix+model.LabelName(name)] = model.LabelValue(values[0])
	}
	return target, nil
}

// labels are those of the pod's series.
func (p Pod) labels() model.LabelSet {
	labels := model.LabelSet{"namespace": model.LabelValue(p.Namespace), "pod": model.LabelValue(p.Name), "node": model.LabelValue(p.Node)}
	if p.App != "" {
		labels["app"] = model.LabelValue(p.App)
	}
	return labels
}

// nodeOf returns what targets depend on of a node; false if it has no address.
func nodeOf(node *corev1.Node) (Node, bool) {
	n := Node{Name: node.Name, Kubelet: int(node.Status.DaemonEndpoints.KubeletEndpoint.Port), Status: node.Annotations[api.AnnotationStatusPort]}
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			n.Address = a.Address
			break
		}
	}
	return n, n.Address != "" && n.Kubelet > 0
}

// podOf returns what targets depend on of a pod; false if there is nothing to read.
func podOf(pod *corev1.Pod) (Pod, bool) {
	if pod.Annotations[AnnotationScrape] != "true" || pod.Status.Phase != corev1.PodRunning || pod.Status.PodIP == "" || pod.DeletionTimestamp != nil {
		return Pod{}, false
	}
	p := Pod{Namespace: pod.Namespace, Name: pod.Name, Node: pod.Spec.NodeName, Address: pod.Status.PodIP, Annotations: map[string]string{}}
	for _, key := range []string{AnnotationPort, AnnotationPath, AnnotationScheme} {
		if value, ok := pod.Annotations[key]; ok {
			p.Annotations[key] = value
		}
	}
	p.App = cmp.Or(pod.Labels["app.kubernetes.io/name"], pod.Labels["app"], pod.Labels["k8s-app"])
	for _, c := range pod.Spec.Containers {
		for _, port := range c.Ports {
			if port.Protocol == corev1.ProtocolTCP || port.Protocol == "" {
				p.Ports = append(p.Ports, int(port.ContainerPort))
			}
		}
	}
	return p, true
}
