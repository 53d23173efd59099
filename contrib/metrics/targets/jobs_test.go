package targets

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	prom "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/k8sm/k8sm/api/statedir"
)

// jobsOf is the configuration as Prometheus reads it.
func jobsOf(t *testing.T, etcd statedir.Etcd) map[string]*prom.ScrapeConfig {
	t.Helper()
	text, err := Scrape("/s", etcd)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := prom.Load(string(text), nil)
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	jobs := map[string]*prom.ScrapeConfig{}
	for _, j := range parsed.ScrapeConfigs {
		jobs[j.JobName] = j
	}
	return jobs
}

func TestEachJobHasLimitsAndFollowsNoRedirects(t *testing.T) {
	jobs := jobsOf(t, statedir.Etcd{Endpoints: []string{"https://127.0.0.1:2379"}, CAFile: "/ca", CertFile: "/cert", KeyFile: "/key"})
	want := []string{JobAPIServer, JobEtcd, JobKubelet, JobProxy, JobMinion, JobScheduler, JobMesos, JobDNS, JobMetrics, JobLogs, JobPods}
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(jobs))); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
	for name, j := range jobs {
		if j.BodySizeLimit == 0 || j.SampleLimit == 0 || j.LabelLimit == 0 || j.LabelNameLengthLimit == 0 || j.LabelValueLengthLimit == 0 || j.ScrapeTimeout >= j.ScrapeInterval {
			t.Errorf("%s has no limits: %+v", name, j)
		}
		if j.HTTPClientConfig.FollowRedirects {
			t.Errorf("%s follows redirects", name)
		}
		if name != JobPods && (j.Scheme != "https" || j.HTTPClientConfig.TLSConfig.CAFile == "" || j.HTTPClientConfig.TLSConfig.InsecureSkipVerify) {
			t.Errorf("%s is believed without a certificate", name)
		}
	}
}

func TestPodsGetNoCredentials(t *testing.T) {
	pods := jobsOf(t, statedir.Etcd{})[JobPods].HTTPClientConfig
	if tls := pods.TLSConfig; tls.CertFile+tls.KeyFile+string(tls.Key)+tls.Cert != "" || pods.Authorization != nil || pods.BasicAuth != nil || pods.OAuth2 != nil {
		t.Errorf("pods get %+v", pods)
	}
}

func TestJobsUseTheRightCertificates(t *testing.T) {
	jobs := jobsOf(t, statedir.Etcd{Endpoints: []string{"https://127.0.0.1:2379"}, CAFile: "/ca", CertFile: "/cert", KeyFile: "/key"})
	got := map[string]string{}
	for name, j := range jobs {
		tls := j.HTTPClientConfig.TLSConfig
		got[name] = strings.Join([]string{filepath.Base(tls.CAFile), filepath.Base(tls.CertFile), filepath.Base(tls.KeyFile), tls.ServerName, j.MetricsPath}, " ")
	}
	want := map[string]string{
		JobAPIServer: "ca.crt metrics.crt metrics.key kubernetes.default.svc /metrics", JobEtcd: "ca cert key  /metrics",
		JobKubelet: "kubelet-trust.crt metrics.crt metrics.key  /metrics", JobMinion: "kubelet-trust.crt metrics.crt metrics.key  /metrics",
		JobProxy: "kubelet-trust.crt metrics.crt metrics.key  /metrics/proxy", JobScheduler: "ca.crt metrics.crt metrics.key scheduler.k8sm.io /metrics",
		JobMesos: "ca.crt metrics.crt metrics.key scheduler.k8sm.io /metrics/mesos", JobDNS: "ca.crt metrics.crt metrics.key dns.k8sm.io /metrics",
		JobMetrics: "ca.crt metrics.crt metrics.key k8sm-metrics.kube-system.svc /metrics", JobPods: ". . .  /metrics",
		JobLogs: "ca.crt metrics.crt metrics.key k8sm-logs.kube-system.svc /metrics",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnEtcdWithoutTLSIsReadWithout(t *testing.T) {
	if j := jobsOf(t, statedir.Etcd{Endpoints: []string{"http://10.0.0.9:2379"}})[JobEtcd]; j.Scheme != "http" {
		t.Errorf("etcd is read by %s", j.Scheme)
	}
}

func TestSeriesThatAreDropped(t *testing.T) {
	jobs := jobsOf(t, statedir.Etcd{})
	for name, test := range map[string]struct {
		job    string
		series labels.Labels
		kept   bool
	}{
		"a bucket that no dashboard shows": {JobAPIServer, labels.FromStrings("__name__", "apiserver_request_duration_seconds_bucket", "le", "1"), false},
		"its sum":                          {JobAPIServer, labels.FromStrings("__name__", "apiserver_request_duration_seconds_sum"), true},
		"a bucket that a rule needs":       {JobAPIServer, labels.FromStrings("__name__", "apiserver_client_certificate_expiration_seconds_bucket", "le", "1"), true},
		"one that only begins so":          {JobAPIServer, labels.FromStrings("__name__", "x_apiserver_client_certificate_expiration_seconds_bucket", "le", "1"), false},
		"a bucket of ours":                 {JobMinion, labels.FromStrings("__name__", "k8sm_minion_cri_call_duration_seconds_bucket", "le", "1"), true},
		"what cAdvisor tells of containers": {JobKubelet,
			labels.FromStrings("__name__", "container_memory_working_set_bytes", "metrics_path", "/metrics/cadvisor"), true},
		"the same once more":   {JobKubelet, labels.FromStrings("__name__", "container_memory_working_set_bytes", "metrics_path", "/metrics/resource"), false},
		"when it was started":  {JobKubelet, labels.FromStrings("__name__", "container_start_time_seconds", "metrics_path", "/metrics/resource"), true},
		"what only it says":    {JobKubelet, labels.FromStrings("__name__", "node_cpu_usage_seconds_total", "metrics_path", "/metrics/resource"), true},
		"a bucket of somebody": {JobPods, labels.FromStrings("__name__", "shop_order_seconds_bucket", "le", "1"), true},
	} {
		made := labels.NewBuilder(test.series)
		kept := relabel.ProcessBuilder(made, jobs[test.job].MetricRelabelConfigs...)
		if kept != test.kept || kept && !labels.Equal(made.Labels(), test.series) {
			t.Errorf("%s: %t, %s", name, kept, made.Labels())
		}
	}
}
