package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/api/podtrace/tracehttp"
)

func ms(d int) time.Duration { return time.Duration(d) * time.Millisecond }

func spanAt(who, what string, begin, end int) podtrace.Span {
	return podtrace.Span{Who: who, What: what, Begin: noon.Add(ms(begin)), End: noon.Add(ms(end))}
}

var launched = &podtrace.Trace{Spans: []podtrace.Span{
	spanAt(podtrace.Scheduler, podtrace.Place, 0, 40), spanAt(podtrace.Mesos, podtrace.Launch, 40, 50), spanAt(podtrace.Scheduler, podtrace.Bind, 50, 60),
}}

var ran = podtrace.Trace{Namespace: "default", Name: "web", UID: "1", Spans: []podtrace.Span{
	spanAt(podtrace.Executor, podtrace.Take, 42, 48), spanAt(podtrace.APIServer, podtrace.Bound, 58, 58),
	spanAt(podtrace.Runtime, "run the sandbox", 360, 560), spanAt(podtrace.Engine, "start", 400, 550), spanAt(podtrace.APIServer, podtrace.Running, 800, 800),
}}

func TestTimelineIsPrinted(t *testing.T) {
	s := story{Namespace: "default", Pod: "web", Node: "n1", Timeline: podtrace.Join(launched, &ran, noon.Add(time.Minute))}
	s.Timeline.Skew, s.Timeline.Missing = ms(-3), 2
	var out bytes.Buffer
	if err := s.print(&out, ""); err != nil {
		t.Fatal(err)
	}
	want := `pod default/web on node n1, 2026-01-01 12:00:00.000 UTC: ran after 800 ms

WHO              WHAT                        AT      TOOK
scheduler        find an agent and an offer  0 ms    40 ms   ==
Mesos            launch the task             40 ms   10 ms     =
  executor       take the task               42 ms   6 ms      -
scheduler        bind the pod                50 ms   10 ms     =
API server       pod is bound                58 ms             |
kubelet          volumes, cgroups            60 ms   300 ms     ===============
runtime          run the sandbox             360 ms  200 ms                    ==========
  Docker Engine  start                       400 ms  150 ms                      -------
kubelet          report the status           560 ms  240 ms                              ============
API server       pod runs                    800 ms                                                 |
the node's clock is about -3ms behind the scheduler's: the times are the scheduler's
2 later spans were not kept
`
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.TrimRight(line, " \n")+"\n")
	}
	if diff := cmp.Diff(want, strings.Join(lines, "")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestStoryIsReadAsJSON(t *testing.T) {
	s := story{Pod: "web", UID: "1", Timeline: podtrace.Join(launched, &ran, noon)}
	var out bytes.Buffer
	if err := s.print(&out, "json"); err != nil {
		t.Fatal(err)
	}
	var got story
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// minionOf serves the traces as the minion of the node n1, and returns a tracer that knows this node, the objects and no scheduler.
func minionOf(t *testing.T, traces []podtrace.Trace, objects ...runtime.Object) *tracer {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc(tracehttp.Pattern, func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("namespace") != "default" || r.PathValue("name") != "web" {
			t.Errorf("the minion was asked for %s", r.URL.Path)
		}
		_ = json.NewEncoder(w).Encode(traces)
	})
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	host, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{api.AnnotationStatusPort: port}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: host}}},
	}
	return &tracer{kube: fake.NewClientset(append(objects, node)...), obstacle: errors.New("no scheduler leads"), nodes: server.Client()}
}

func TestStoryIsOfThePodAndOfNoEarlierOneOfThatName(t *testing.T) {
	web := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "1"}, Spec: corev1.PodSpec{NodeName: "n1"}}
	earlier := podtrace.Trace{Namespace: "default", Name: "web", UID: "0"}
	s, err := minionOf(t, []podtrace.Trace{earlier, ran}, web).read(t.Context(), api.PodKey{Namespace: "default", Name: "web"})
	if err != nil || s.Node != "n1" || s.UID != "1" || s.Timeline.Running != ms(800-42) {
		t.Errorf("got %+v, %v", s, err)
	}
	if want := []string{"the spans of the scheduler: no scheduler leads"}; !cmp.Equal(s.Missing, want) {
		t.Errorf("it misses %q, want %q", s.Missing, want)
	}
}

func TestStoryOfAMinionThatBeganLaterHasWhatTheAPIKnows(t *testing.T) {
	created := metav1.NewTime(noon)
	web := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "1", CreationTimestamp: created}, Spec: corev1.PodSpec{NodeName: "n1"},
		Status: corev1.PodStatus{
			Conditions: []corev1.PodCondition{
				{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(noon.Add(2 * time.Second))},
				{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: created},
				{Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse},
			},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{
				Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(noon.Add(time.Second))}}}},
		},
	}
	s, err := minionOf(t, nil, web).read(t.Context(), api.PodKey{Namespace: "default", Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := s.print(&out, ""); err != nil {
		t.Fatal(err)
	}
	want := `pod default/web on node n1
not here: the spans of the scheduler: no scheduler leads
not here: the spans of the minion of node n1: it has none of this pod: it began after the pod's start, or has run many pods since
what the API server has, in whole seconds:
  12:00:00  the pod was created
  12:00:00  PodScheduled
  12:00:01  container main was started
  12:00:02  Ready
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestStoryThatNobodyKnowsIsAnError(t *testing.T) {
	waiting := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "1"}}
	for name, objects := range map[string][]runtime.Object{"gone": nil, "waiting": {waiting}} {
		_, err := minionOf(t, nil, objects...).read(t.Context(), api.PodKey{Namespace: "default", Name: "web"})
		if err == nil || !strings.Contains(err.Error(), "no scheduler leads") {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
}
