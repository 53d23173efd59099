package targets

import (
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/api/statedir"
)

const (
	// interval is how often targets are read, and timeout bounds one reading.
	interval, timeout = "30s", "10s"
	// podSampleLimit is how many series a pod may have.
	podSampleLimit = 5000
)

// buckets are the histograms that are kept whole. Those of an API server alone are 20,000 series, of which dashboards show few.
var buckets = []string{
	"apiserver_client_certificate_expiration_seconds", "coredns_dns_request_duration_seconds", "etcd_disk_backend_commit_duration_seconds",
	"etcd_disk_wal_fsync_duration_seconds", "k8sm_.*", "kubelet_pod_start_sli_duration_seconds", "kubeproxy_network_programming_duration_seconds",
	"kubeproxy_sync_proxy_rules_duration_seconds",
}

// job is one scrape configuration of ours.
type job struct {
	name string
	path string // the default is /metrics; a target may have its own
	tls  tlsFiles
	// body is the largest answer, and samples the most series that a target may have.
	body    string
	samples int
}

// tlsFiles are for targets that know their callers by certificates. Those without are plain HTTP.
type tlsFiles struct{ ca, cert, key, server string }

// Scrape is the configuration of all jobs, as YAML: a map with scrape_configs.
func Scrape(dir statedir.Dir, etcd statedir.Etcd) ([]byte, error) {
	cert, key := dir.Pair(statedir.MetricsClient)
	known := func(ca, server string) tlsFiles { return tlsFiles{ca, cert, key, server} }
	cluster, nodes := dir.CA(), known(dir.KubeletTrust(), "")
	var all []any
	for _, j := range []job{
		{name: JobAPIServer, tls: known(cluster, "kubernetes.default.svc"), body: "64MB", samples: 100_000},
		{name: JobEtcd, tls: tlsFiles{etcd.CAFile, etcd.CertFile, etcd.KeyFile, ""}, body: "16MB", samples: 20_000},
		{name: JobKubelet, tls: nodes, body: "32MB", samples: 50_000},
		{name: JobProxy, path: "/metrics/proxy", tls: nodes, body: "16MB", samples: 20_000},
		{name: JobMinion, tls: nodes, body: "16MB", samples: 20_000},
		{name: JobScheduler, tls: known(cluster, statedir.SchedulerServerName), body: "16MB", samples: 20_000},
		{name: JobMesos, path: "/metrics/mesos", tls: known(cluster, statedir.SchedulerServerName), body: "16MB", samples: 50_000},
		{name: JobDNS, tls: known(cluster, statedir.DNSServerName), body: "16MB", samples: 20_000},
		{name: JobMetrics, tls: known(cluster, statedir.MetricsServerName), body: "16MB", samples: 20_000},
		{name: JobLogs, tls: known(cluster, logs.ServerName), body: "16MB", samples: 20_000},
		{name: JobPods, body: "8MB", samples: podSampleLimit},
	} {
		all = append(all, j.config())
	}
	text, err := yaml.Marshal(map[string]any{"scrape_configs": all})
	if err != nil {
		return nil, fmt.Errorf("cannot encode the jobs: %w", err)
	}
	return text, nil
}

// config is the job in Prometheus' words. No target sends the server elsewhere.
func (j job) config() map[string]any {
	c := map[string]any{
		"job_name": j.name, "scrape_interval": interval, "scrape_timeout": timeout, "follow_redirects": false,
		"body_size_limit": j.body, "sample_limit": j.samples, "label_limit": 64, "label_name_length_limit": 256, "label_value_length_limit": 4096,
	}
	if j.path != "" {
		c["metrics_path"] = j.path
	}
	if j.name == JobPods {
		c["tls_config"] = map[string]any{"insecure_skip_verify": true} // a pod's certificate is of nobody whom we know, and it gets no secret
		c["fallback_scrape_protocol"] = "PrometheusText0.0.4"          // for those that do not say what they send
		return c
	}
	if j.tls.ca != "" {
		c["scheme"] = "https"
		tls := map[string]any{"ca_file": j.tls.ca}
		if j.tls.cert != "" {
			tls["cert_file"], tls["key_file"] = j.tls.cert, j.tls.key
		}
		if j.tls.server != "" {
			tls["server_name"] = j.tls.server
		}
		c["tls_config"] = tls
	}
	c["relabel_configs"] = []any{map[string]any{"source_labels": []string{"__metrics_path__"}, "target_label": "metrics_path"}}
	drop := dropBuckets()
	if j.name == JobKubelet { // cAdvisor tells the same of containers, and more. Restarts show only here: there each has a series of its own
		drop = append(drop, map[string]any{"source_labels": []string{"metrics_path", "__name__"}, "separator": ";", "regex": "/metrics/resource;container_(cpu|memory|swap)_.*", "action": "drop"})
	}
	c["metric_relabel_configs"] = drop
	return c
}

// dropBuckets drops all buckets but those of the histograms that are kept. Regular expressions here cannot say "but".
func dropBuckets() []any {
	const kept = "__tmp_kept"
	return []any{
		map[string]any{"source_labels": []string{"__name__"}, "regex": "(" + strings.Join(buckets, "|") + ")_bucket", "target_label": kept, "replacement": "yes"},
		map[string]any{"source_labels": []string{"__name__", kept}, "separator": ";", "regex": ".+_bucket;", "action": "drop"},
		map[string]any{"regex": kept, "action": "labeldrop"},
	}
}
