package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"hash/fnv"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

const (
	metricsNodes = 100
	// metricsPods are on each hollow node, each with two containers.
	metricsPods = 10
)

// addKubelets adds the nodes, each with a kubelet that serves metrics and nothing else. They listen on loopback.
func (m *metricsBench) addKubelets(ctx context.Context) (stop func(), err error) {
	config, err := m.kubeletTLS()
	if err != nil {
		return nil, err
	}
	port, err := scratch.FreePort()
	if err != nil {
		return nil, err
	}
	var servers []*http.Server
	stop = func() {
		for _, s := range servers {
			_ = s.Close()
		}
	}
	for i := range metricsNodes {
		listener, err := net.Listen("tcp", net.JoinHostPort(kubeletAddress(i).String(), strconv.Itoa(port)))
		if err != nil {
			stop()
			return nil, err
		}
		server := &http.Server{Handler: hollowKubelet(i), TLSConfig: config, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(m.log, "", 0)}
		servers = append(servers, server)
		go func() { _ = server.ServeTLS(listener, "", "") }()
	}
	err = parallel(ctx, metricsNodes, func(ctx context.Context, i int) error {
		node := plainNode("hollow-" + strconv.Itoa(i))
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: kubeletAddress(i).String()}}
		node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(port)
		_, err := m.kube.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		return err
	})
	if err == nil {
		err = await(ctx, "km metrics did not read all hollow kubelets", func() bool {
			n, err := value(ctx, m.api, `count(up{job="kubelet"} == 1)`)
			return err == nil && n == 4*metricsNodes
		})
	}
	if err != nil {
		stop()
	}
	return stop, err
}

// kubeletAddress is that of a hollow node.
func kubeletAddress(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + i)}) }

// kubeletTLS has a serving certificate for all hollow kubelets, and asks callers for one of the cluster.
func (m *metricsBench) kubeletTLS() (*tls.Config, error) {
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "hollow"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for i := range metricsNodes {
		template.IPAddresses = append(template.IPAddresses, kubeletAddress(i).AsSlice())
	}
	cert, key, err := issue(m.dir.KubeletServingCA(), m.dir.KubeletServingCAKey(), template)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(m.dir.CA())
	if err != nil {
		return nil, err
	}
	callers := x509.NewCertPool()
	if !callers.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate", m.dir.CA())
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: callers,
	}, nil
}

// hollowKubelet serves metrics under a kubelet's names. Each sample has the time of its place on the grid, as cAdvisor's have, and a
// value that follows from its labels and this time, so whoever reads within the same interval reads the same.
func hollowKubelet(node int) http.Handler {
	mux := http.NewServeMux()
	for path, write := range map[string]func(page){
		"/metrics": ownMetrics, "/metrics/cadvisor": containerMetrics, "/metrics/probes": probeMetrics, "/metrics/resource": resourceMetrics,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			var text strings.Builder
			write(page{out: &text, node: node, at: time.Now().Truncate(metricsGrid)})
			w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
			_, _ = io.WriteString(w, text.String())
		})
	}
	return mux
}

// page is one answer of a hollow kubelet.
type page struct {
	out  *strings.Builder
	node int
	at   time.Time
}

// metric writes the samples of one metric, a counter or a gauge.
func (p page) metric(name, kind string, labels ...string) {
	fmt.Fprintf(p.out, "# TYPE %s %s\n", name, kind)
	for _, l := range labels {
		p.sample(name, kind == "counter", l)
	}
}

func (p page) sample(name string, counts bool, labels string) {
	h := fnv.New32a()
	fmt.Fprint(h, p.node, name, labels)
	seed := float64(h.Sum32()%1000 + 1)
	value := seed * 1e4 * (1 + float64(p.at.Unix()/int64(metricsGrid.Seconds())%7)) // goes up and down
	if counts {
		value = seed * float64(p.at.Unix()-1.7e9) / 100
	}
	fmt.Fprintf(p.out, "%s{%s} %g %d\n", name, labels, value, p.at.UnixMilli())
}

// each returns labels of the node's pods, with those of each container or, if there are none, of the pod alone.
func (p page) each(containers ...string) (labels []string) {
	for i := range metricsPods {
		pod := fmt.Sprintf(`namespace=%q,pod="pod-%d-%d"`, []string{"default", "kube-system", "shop"}[i%3], p.node, i)
		for _, c := range containers {
			labels = append(labels, fmt.Sprintf(`%s,container=%q`, pod, c))
		}
		if len(containers) == 0 {
			labels = append(labels, pod)
		}
	}
	return labels
}

func containerMetrics(p page) {
	for _, name := range []string{"cpu_usage_seconds_total", "cpu_cfs_periods_total", "cpu_cfs_throttled_periods_total", "memory_failcnt",
		"fs_reads_bytes_total", "fs_writes_bytes_total", "oom_events_total"} {
		p.metric("container_"+name, "counter", p.each("main", "side")...)
	}
	for _, name := range []string{"memory_working_set_bytes", "memory_rss", "memory_cache", "memory_usage_bytes", "spec_memory_limit_bytes", "processes",
		"threads", "file_descriptors"} {
		p.metric("container_"+name, "gauge", p.each("main", "side")...)
	}
	for _, name := range []string{"receive_bytes_total", "receive_packets_total", "transmit_bytes_total", "transmit_packets_total"} {
		p.metric("container_network_"+name, "counter", p.each()...)
	}
}

func resourceMetrics(p page) {
	p.metric("node_cpu_usage_seconds_total", "counter", "")
	p.metric("node_memory_working_set_bytes", "gauge", "")
	p.metric("container_start_time_seconds", "gauge", p.each("main", "side")...)
	p.metric("pod_cpu_usage_seconds_total", "counter", p.each()...)
	p.metric("pod_memory_working_set_bytes", "gauge", p.each()...)
}

func probeMetrics(p page) { p.metric("prober_probe_total", "counter", p.each("main", "side")...) }

func ownMetrics(p page) {
	const histogram = "kubelet_pod_start_sli_duration_seconds"
	fmt.Fprintf(p.out, "# TYPE %s histogram\n", histogram)
	below := 0.0
	step := float64(p.at.Unix()-1.7e9) / metricsGrid.Seconds()
	for i, le := range []string{"0.5", "1", "2", "3", "5", "10", "30", "60", "+Inf"} {
		below += step * float64(i%4+p.node%3)
		fmt.Fprintf(p.out, "%s_bucket{le=%q} %g %d\n", histogram, le, below, p.at.UnixMilli())
	}
	fmt.Fprintf(p.out, "%s_sum %g %d\n%s_count %g %d\n", histogram, 2*below, p.at.UnixMilli(), histogram, below, p.at.UnixMilli())
	for i := range 150 {
		p.metric(fmt.Sprintf("kubelet_hollow_%d_total", i), "counter", `operation="run"`, `operation="stop"`)
	}
}
