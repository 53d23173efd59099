package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	prom "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/metrics/history"
)

// kubelet serves what a kubelet does of two namespaces. Nobody who asks for mine may see the other's.
const kubelet = `
container_cpu_usage_seconds_total{job="kubelet",metrics_path="/metrics/cadvisor",namespace="mine",pod="web",container="a"} 10
container_cpu_usage_seconds_total{job="kubelet",metrics_path="/metrics/cadvisor",namespace="mine",pod="web",container="b"} 10
container_cpu_usage_seconds_total{job="kubelet",metrics_path="/metrics/cadvisor",namespace="other",pod="hidden",container="a"} 10
container_memory_working_set_bytes{job="kubelet",metrics_path="/metrics/cadvisor",namespace="mine",pod="web",container="a"} 3
container_memory_working_set_bytes{job="kubelet",metrics_path="/metrics/cadvisor",namespace="mine",pod="web",container="b"} 4
container_memory_working_set_bytes{job="kubelet",metrics_path="/metrics/cadvisor",namespace="mine",pod="web",container="POD"} 100
container_memory_working_set_bytes{job="kubelet",metrics_path="/metrics/cadvisor",namespace="mine",pod="web",container=""} 100
container_memory_working_set_bytes{job="kubelet",metrics_path="/metrics/cadvisor",namespace="mine",pod="db",container="a"} 5
container_memory_working_set_bytes{job="pods",namespace="mine",pod="forged",container="a"} 6
container_memory_working_set_bytes{job="kubelet",metrics_path="/metrics/cadvisor",namespace="other",pod="hidden",container="a"} 7
container_memory_working_set_bytes{job="kubelet",metrics_path="/metrics/cadvisor",namespace="",pod="",container=""} 8
container_network_receive_bytes_total{job="kubelet",metrics_path="/metrics/cadvisor",namespace="mine",pod="web",interface="eth0"} 10
container_network_receive_bytes_total{job="kubelet",metrics_path="/metrics/cadvisor",namespace="",pod="",interface="hidden"} 10
container_network_transmit_bytes_total{job="kubelet",metrics_path="/metrics/cadvisor",namespace="mine",pod="web",interface="eth0"} 10
container_network_transmit_bytes_total{job="kubelet",metrics_path="/metrics/cadvisor",namespace="other",pod="hidden",interface="eth0"} 10
`

// kept is a History that has read that.
func kept(t *testing.T) http.Handler {
	t.Helper()
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = io.WriteString(w, kubelet)
	}))
	t.Cleanup(target.Close)
	job := history.Job{ScrapeConfig: prom.DefaultScrapeConfig, Targets: history.TargetFunc(func(_ context.Context, groups chan<- []*targetgroup.Group) {
		groups <- []*targetgroup.Group{{Source: "a", Targets: []model.LabelSet{{model.AddressLabel: model.LabelValue(strings.TrimPrefix(target.URL, "http://"))}}}}
	})}
	job.JobName, job.HonorLabels, job.ScrapeInterval, job.ScrapeTimeout = "a", true, model.Duration(time.Second), model.Duration(time.Second)
	h, err := history.New(history.Config{Dir: t.TempDir(), MinFree: 1 << 20, Jobs: []history.Job{job}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	waiting, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	for { // a rate needs two readings
		value, err := h.Query(waiting, `count_over_time(container_network_transmit_bytes_total{namespace="mine"}[1h]) >= 2`, time.Now())
		if err == nil && value.String() != "" {
			return h
		}
		if waiting.Err() != nil {
			t.Fatalf("nothing is read: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// asViewer serves usage to one who may get what pods of the namespace mine used, and to nobody else, as an API server does.
func asViewer(h http.Handler) http.Handler {
	may := authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if a.IsResourceRequest() && a.GetVerb() == "get" && a.GetAPIGroup() == api.MetricsGroup && a.GetNamespace() == "mine" && a.GetResource() == "pods" && usageQueries[a.GetSubresource()] != (usageQuery{}) {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
	checked := filters.WithAuthorization(usage{h}, may, scheme.Codecs)
	resolver := &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	return filters.WithRequestInfo(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		checked.ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), &user.DefaultInfo{Name: "viewer"})))
	}), resolver)
}

// lastOf are the last values of an answer, by the names of pods and containers; of rates it is only told that they are there.
func lastOf(t *testing.T, body string) map[string]string {
	t.Helper()
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatalf("%v: %.300s", err, body)
	}
	values := map[string]string{}
	for _, series := range answer.Data.Result {
		name := series.Metric["pod"]
		if c := series.Metric["container"]; c != "" {
			name += "/" + c
		}
		values[name] = fmt.Sprint(series.Values[len(series.Values)-1][1])
	}
	return values
}

func TestViewersOfANamespaceSeeWhatItsPodsUsed(t *testing.T) {
	server := asViewer(kept(t))
	ask := func(path string) (int, string) {
		recorder := httptest.NewRecorder()
		server.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, usagePath+path, nil))
		return recorder.Code, recorder.Body.String()
	}
	now := time.Now()
	for path, want := range map[string]map[string]string{
		"mine/pods/*/cpu":              {"web": "0"},
		"mine/pods/web/cpu":            {"web/a": "0", "web/b": "0"},
		"mine/pods/*/memory":           {"web": "7", "db": "5"},
		"mine/pods/web/memory":         {"web/a": "3", "web/b": "4"},
		"mine/pods/*/network-received": {"web": "0"},
		"mine/pods/web/network-sent":   {"web": "0"},
		"mine/pods/hidden/memory":      {},
		"mine/pods/forged/memory":      {},
		fmt.Sprintf("mine/pods/db/memory?start=%d&end=%d&step=1", now.Unix()-20, now.Unix()+5): {"db/a": "5"},
		"mine/pods/db/memory?start=2020-01-01T00:00:00Z&end=2020-01-02T00:00:00Z&step=5m":      {},
		"mine/pods/db/memory?query=up&namespace=other&pod=hidden&match[]=up&stats=all":         {"db/a": "5"},
	} {
		code, body := ask(path)
		if diff := cmp.Diff(want, lastOf(t, body)); code != http.StatusOK || diff != "" {
			t.Errorf("%s: %d (-want +got):\n%s%.300s", path, code, diff, body)
		}
	}
	for path, want := range map[string]string{
		"mine/pods/*/memory?start=yesterday":            "cannot use start: give a time as in ",
		"mine/pods/*/memory?end=NaN":                    "cannot use end: ",
		"mine/pods/*/memory?end=1e300":                  "cannot use end: ",
		"mine/pods/*/memory?start=100&end=100":          "it is not before end",
		"mine/pods/*/memory?step=0":                     "cannot use step: give a time such as 30s",
		"mine/pods/*/memory?step=-5m":                   "cannot use step: ",
		"mine/pods/*/memory?step=Inf":                   "cannot use step: ",
		"mine/pods/*/memory?start=1000&end=9000&step=1": "more than 1000 values",
	} {
		if code, body := ask(path); code != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want %s", path, code, body, want)
		}
	}
	if code, body := ask("mine/pods/*/disk"); code != http.StatusForbidden {
		t.Errorf("what is not there: %d %s", code, body)
	}
}

func TestNoNameLeadsOutOfItsNamespace(t *testing.T) {
	server := asViewer(kept(t))
	for _, path := range []string{
		`other/pods/*/memory`, `/pods/*/memory`, `*/pods/*/memory`, `.+/pods/*/memory`, `mine|other/pods/*/memory`,
		`mine"} or container_memory_working_set_bytes{namespace="other/pods/*/memory`, `mine\/pods/*/memory`, "mine\n/pods/*/memory", "mine\x00/pods/*/memory",
		`mine/pods/hidden"} or container_memory_working_set_bytes{pod="hidden/memory`, `mine/pods/web" or pod="hidden/memory`, `mine/pods/.+/memory`, `mine/pods/hid.*/memory`,
		"mine/pods/`hidden`/memory", `mine/pods/web",namespace=~".+/memory`, `mine/pods/**/memory`, `mine/pods//memory`, `mine/pods/*/memory/hidden`,
		`mine/pods/*`, `mine/pods`, `mine`, ``, `mine/../other/pods/*/memory`, `mine/pods/../../other/pods/*/memory`, `mine/pods/*/../../../other/pods/*/memory`,
		`mine/pods/*/memory/../../../../other/pods/*/memory`, `mine//other/pods/*/memory`, `mine/status/other/pods/*/memory`, `mine/namespaces/other/pods/*/memory`,
		`mine/pods/*/memory;/../other`, `MINE/pods/*/memory`, "mine\u200b/pods/*/memory", strings.Repeat("m", 64) + `/pods/*/memory`,
	} {
		for _, escaped := range []string{path, url.PathEscape(path), strings.ReplaceAll(path, "/", "%2f"), strings.ReplaceAll(path, "../", "%2e%2e%2f")} {
			recorder := httptest.NewRecorder()
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.URL = &url.URL{Path: usagePath + path, RawPath: usagePath + escaped}
			if unescaped, err := url.PathUnescape(escaped); err == nil {
				r.URL.Path = usagePath + unescaped
			}
			server.ServeHTTP(recorder, r)
			if body := recorder.Body.String(); recorder.Code == http.StatusOK || strings.Contains(body, `"hidden`) && strings.Contains(body, "values") {
				t.Errorf("%s: %d %.300s", escaped, recorder.Code, body)
			}
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodPatch} {
		recorder := httptest.NewRecorder()
		server.ServeHTTP(recorder, httptest.NewRequest(method, usagePath+"mine/pods/*/memory", strings.NewReader("query=up")))
		if recorder.Code == http.StatusOK && method != http.MethodHead {
			t.Errorf("%s: %d %s", method, recorder.Code, recorder.Body)
		}
	}
}
