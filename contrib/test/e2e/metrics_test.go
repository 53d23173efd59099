package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/procfs"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// minionReaders are who asks a minion for its metrics. All check its certificate.
func minionReaders(t *testing.T, c *scratch.Cluster, dir string) map[string]*rest.Config {
	t.Helper()
	readers := map[string]*rest.Config{"nobody": rest.AnonymousClientConfig(c.REST), "an invented token": rest.AnonymousClientConfig(c.REST)}
	for name, file := range map[string]string{"the administrator": "admin.kubeconfig", "the controller manager": "controller-manager.kubeconfig"} {
		config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		readers[name] = config
	}
	readers["an invented token"].BearerToken = "not.a.token"
	readers["a scraper"] = rest.AnonymousClientConfig(c.REST)
	readers["a scraper"].BearerToken = scraperToken(t, c)
	for _, config := range readers {
		config.CAData, config.CAFile = nil, filepath.Join(dir, "pki", "kubelet-serving-ca.crt")
	}
	return readers
}

// scraperToken is the token of a service account that may read nodes' metrics.
func scraperToken(t *testing.T, c *scratch.Cluster) string {
	t.Helper()
	meta := metav1.ObjectMeta{Name: "scraper"}
	account, err := c.Kube.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kube.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes/metrics"}, Verbs: []string{"get"}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: account.Namespace, Name: account.Name}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := c.Kube.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), account.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return token.Status.Token
}

// minionAnswers waits until the only node's minion has a certificate.
func minionAnswers(t *testing.T, c *scratch.Cluster, who *rest.Config, path string) (code int, body string) {
	t.Helper()
	err := scratch.Until(t.Context(), time.Minute, func(context.Context) (err error) {
		code, body, err = answers(who, onMinion(onlyNode(t, c), path))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return code, body
}

// minionServesMetrics asks the only node's minion. A pod runs there.
func minionServesMetrics(t *testing.T, c *scratch.Cluster, dir string) {
	readers := minionReaders(t, c, dir)
	for name, want := range map[string][3]int{ // of /metrics, /metrics/proxy and profiles
		"nobody":                 {http.StatusUnauthorized, http.StatusUnauthorized, http.StatusUnauthorized},
		"an invented token":      {http.StatusUnauthorized, http.StatusUnauthorized, http.StatusUnauthorized},
		"the controller manager": {http.StatusForbidden, http.StatusForbidden, http.StatusForbidden},
		"a scraper":              {http.StatusOK, http.StatusOK, http.StatusForbidden},
		"the administrator":      {http.StatusOK, http.StatusOK, http.StatusOK},
	} {
		for i, path := range []string{"/metrics", "/metrics/proxy", "/debug/pprof/goroutine"} {
			if code, body := minionAnswers(t, c, readers[name], path); code != want[i] {
				t.Errorf("%s gets %d from %s, want %d: %.300s", name, code, path, want[i], body)
			}
		}
	}
	_, own := minionAnswers(t, c, readers["a scraper"], "/metrics")
	for _, series := range []string{
		`k8sm_minion_starts_total{part="kubelet"} 1`, `k8sm_minion_cri_call_duration_seconds_count{code="OK",method="RunPodSandbox"}`,
		`k8sm_minion_containers_running{kind="sandbox"}`, `k8sm_minion_sync_duration_seconds_count{result="ok",what="policies"}`, "process_resident_memory_bytes",
	} {
		if !strings.Contains(own, series) {
			t.Errorf("the minion's metrics have no %s:\n%s", series, own)
		}
	}
	for series, want := range map[string]string{`k8sm_minion_sync_duration_seconds_count{result="failed",what="network"}`: "0", `k8sm_minion_containers_running{kind="container"}`: ""} {
		if got := valueOf(own, series); got == "" || want != "" && got != want {
			t.Errorf("%s is %q, want %q", series, got, want)
		}
	}
	err := scratch.Until(t.Context(), 30*time.Second, func(context.Context) error { // until it has written its rules once
		if _, proxy := minionAnswers(t, c, readers["a scraper"], "/metrics/proxy"); !strings.Contains(proxy, "\nkubeproxy_sync_proxy_rules_duration_seconds_count") {
			return fmt.Errorf("the proxy's metrics are:\n%.2000s", proxy)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// valueOf is the value of a series in the text of metrics; "" if there is none.
func valueOf(text, series string) (value string) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			_, _ = fmt.Sscan(rest, &value)
		}
	}
	return value
}

// measuredPod has a container that has used some of everything, and one that is idle.
func measuredPod(t *testing.T, c *scratch.Cluster) *corev1.Pod {
	t.Helper()
	p := always("measured")
	main := &p.Spec.Containers[0]
	main.Command = []string{"/bin/busybox", "sh", "-c", "/bin/busybox dd if=/dev/zero of=/blob bs=1M count=3; /bin/busybox wget -T 1 -O /dev/null http://$HOST:1/; " +
		"i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; exec /bin/busybox sleep 3600"}
	main.Env = []corev1.EnvVar{{Name: "HOST", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.hostIP"}}}}
	main.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	side := *main.DeepCopy()
	side.Name, side.Command, side.Resources.Limits = "side", []string{"/bin/busybox", "sleep", "3600"}, nil
	p.Spec.Containers = append(p.Spec.Containers, side)
	return create(t, c, p)
}

// ofKubelet is what the only node's kubelet answers.
func ofKubelet(t *testing.T, c *scratch.Cluster, path string) []byte {
	t.Helper()
	text, err := c.Kube.CoreV1().RESTClient().Get().Resource("nodes").Name(onlyNode(t, c).Name).SubResource("proxy").Suffix(path).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// families are the metrics that a path of the only node's kubelet has, by their names.
func families(t *testing.T, c *scratch.Cluster, path string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(bytes.NewReader(ofKubelet(t, c, path)))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return all
}

// sample is the value of the only series of a metric with these labels, and all labels of it.
func sample(all map[string]*dto.MetricFamily, metric string, labels map[string]string) (value float64, full map[string]string, err error) {
	found := 0
	for _, m := range all[metric].GetMetric() {
		have := map[string]string{}
		for _, l := range m.GetLabel() {
			have[l.GetName()] = l.GetValue()
		}
		fits := true
		for name, want := range labels {
			fits = fits && have[name] == want
		}
		if fits {
			found, full, value = found+1, have, m.GetCounter().GetValue()+m.GetGauge().GetValue()
		}
	}
	if found != 1 {
		return 0, nil, fmt.Errorf("%d series of %s have %v", found, metric, labels)
	}
	return value, full, nil
}

// process is the first one of a container of the pod, or with "" of its sandbox.
func process(t *testing.T, c *scratch.Cluster, p *corev1.Pod, containerName string) (id string, proc procfs.Proc) {
	t.Helper()
	for each := range containers(t, c, p) {
		info, err := c.Docker.ContainerInspect(t.Context(), each)
		if err != nil {
			t.Fatal(err)
		}
		if info.Config.Labels["io.kubernetes.container.name"] != containerName {
			continue
		}
		if proc, err = procfs.NewProc(info.State.Pid); err != nil {
			t.Fatal(err)
		}
		return each, proc
	}
	t.Fatalf("pod %s has no container %q", p.Name, containerName)
	return "", proc
}

// cgroupFile reads a number from the cgroup (v1) of a process.
func cgroupFile(t *testing.T, proc procfs.Proc, controller, file string) float64 {
	t.Helper()
	memberships, err := proc.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range memberships {
		if !slices.Contains(m.Controllers, controller) {
			continue
		}
		text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, m.Path, file))
		if err != nil {
			t.Fatal(err)
		}
		number, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
		if err != nil {
			t.Fatal(err)
		}
		return number
	}
	t.Fatalf("process %d has no cgroup of %s", proc.PID, controller)
	return 0
}

// ofContainers and ofNetworks are what the usual dashboards ask for.
var (
	ofContainers = []string{
		"container_cpu_usage_seconds_total", "container_cpu_user_seconds_total", "container_cpu_system_seconds_total", "container_memory_working_set_bytes",
		"container_memory_usage_bytes", "container_memory_rss", "container_memory_cache", "container_spec_cpu_period", "container_spec_cpu_shares",
		"container_spec_memory_limit_bytes", "container_fs_usage_bytes", "container_start_time_seconds", "container_last_seen", "container_processes", "container_threads",
	}
	ofNetworks = []string{
		"container_network_receive_bytes_total", "container_network_receive_packets_total", "container_network_receive_errors_total", "container_network_receive_packets_dropped_total",
		"container_network_transmit_bytes_total", "container_network_transmit_packets_total", "container_network_transmit_errors_total", "container_network_transmit_packets_dropped_total",
	}
)

// kubeletShowsContainers compares the kubelet's metrics of a pod with its cgroups and its network.
func kubeletShowsContainers(t *testing.T, c *scratch.Cluster, p *corev1.Pod) {
	ofPod := func(containerName string, more ...string) map[string]string {
		labels := map[string]string{"namespace": "default", "pod": p.Name, "container": containerName}
		for i := 0; i < len(more); i += 2 {
			labels[more[i]] = more[i+1]
		}
		return labels
	}
	var all map[string]*dto.MetricFamily
	err := scratch.Until(t.Context(), 2*time.Minute, func(context.Context) (err error) { // the kubelet looks every 15 to 30 s
		all = families(t, c, "metrics/cadvisor")
		for _, name := range []string{"main", "side"} {
			for _, metric := range ofContainers {
				if _, _, missing := sample(all, metric, ofPod(name)); missing != nil {
					err = missing
				}
			}
		}
		for _, metric := range ofNetworks {
			if _, _, missing := sample(all, metric, ofPod("", "interface", "eth0")); missing != nil {
				err = missing
			}
		}
		if used, _, missing := sample(all, "container_fs_usage_bytes", ofPod("main")); missing == nil && used < 3<<20 {
			err = fmt.Errorf("the layer has %g bytes", used)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	value := func(metric string, labels map[string]string) float64 {
		t.Helper()
		v, _, err := sample(all, metric, labels)
		if err != nil {
			t.Error(err)
		}
		return v
	}
	for _, name := range []string{"main", "side"} {
		id, proc := process(t, c, p, name)
		for metric, is := range map[string]float64{
			"container_cpu_usage_seconds_total": cgroupFile(t, proc, "cpuacct", "cpuacct.usage") / 1e9,
			"container_memory_usage_bytes":      cgroupFile(t, proc, "memory", "memory.usage_in_bytes"),
			"container_spec_cpu_shares":         cgroupFile(t, proc, "cpu", "cpu.shares"),
			"container_spec_cpu_period":         cgroupFile(t, proc, "cpu", "cpu.cfs_period_us"),
			"container_processes":               1,
		} {
			tolerance := is / 100
			if metric == "container_memory_usage_bytes" {
				tolerance = 1 << 20 // what the kernel counts ahead
			}
			if got := value(metric, ofPod(name)); math.Abs(got-is) > tolerance {
				t.Errorf("%s of %s is %g, and the cgroup has %g", metric, name, got, is)
			}
		}
		_, labels, _ := sample(all, "container_memory_rss", ofPod(name))
		if labels["image"] != image || !strings.HasSuffix(labels["id"], "/"+id) || labels["name"] == "" || len(labels) != 6 {
			t.Errorf("the labels of %s are %v", name, labels)
		}
		started, _, _ := sample(all, "container_start_time_seconds", ofPod(name))
		if at, err := time.Parse(time.RFC3339Nano, containers(t, c, p)[id]); err != nil || math.Abs(started-float64(at.Unix())) > 5 {
			t.Errorf("%s has started at %g, want %v, %v", name, started, at, err)
		}
	}
	if quota, limit := value("container_spec_cpu_quota", ofPod("main")), value("container_spec_memory_limit_bytes", ofPod("main")); quota != 50000 || limit != 64<<20 {
		t.Errorf("main's limits are %g µs and %g bytes", quota, limit)
	}
	if used := value("container_fs_usage_bytes", ofPod("main")); used > 4<<20 {
		t.Errorf("main's layer has %g bytes", used)
	}
	_, sandbox := process(t, c, p, "")
	devices, err := sandbox.NetDev()
	if err != nil {
		t.Fatal(err)
	}
	for metric, is := range map[string]uint64{
		"container_network_receive_bytes_total": devices["eth0"].RxBytes, "container_network_transmit_bytes_total": devices["eth0"].TxBytes,
		"container_network_transmit_packets_total": devices["eth0"].TxPackets,
	} {
		// Neighbors may have been looked up since.
		if got := value(metric, ofPod("", "interface", "eth0")); got == 0 || got > float64(is) || got < float64(is)/2 {
			t.Errorf("%s is %g, and the pod's interface has %d", metric, got, is)
		}
	}
	for metric, f := range all {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "name" && strings.HasPrefix(l.GetValue(), "k8s_main_web_default_0000") {
					t.Errorf("%s shows a foreign container: %v", metric, m)
				}
			}
		}
	}
	var summary stats.Summary
	if err := json.Unmarshal(ofKubelet(t, c, "stats/summary"), &summary); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(summary.Pods, func(s stats.PodStats) bool { return s.PodRef.UID == string(p.UID) })
	if i < 0 || summary.Pods[i].Network == nil || summary.Pods[i].Network.RxBytes == nil || len(summary.Pods[i].Containers) != 2 {
		t.Errorf("/stats/summary has no network or not all containers of the pod: %+v", summary.Pods)
	}
	resources := families(t, c, "metrics/resource") // which kubectl top and autoscalers read
	for _, name := range []string{"main", "side"} {
		for _, metric := range []string{"container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_start_time_seconds"} {
			if _, _, err := sample(resources, metric, ofPod(name)); err != nil {
				t.Errorf("/metrics/resource: %v", err)
			}
		}
	}
}
