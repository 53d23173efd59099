package podtrace

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// epoch is the time 0 of the tests.
var epoch = time.Unix(1000, 0)

func at(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }

func span(who, what string, begin, end int) Span {
	return Span{Who: who, What: what, Begin: at(begin), End: at(end)}
}

func trace(spans ...Span) *Trace { return &Trace{Spans: spans} }

// text has a line a row: begin, end, and what, indented by the depth.
func text(t Timeline) string {
	var b strings.Builder
	for _, r := range t.Rows {
		end := fmt.Sprint(r.End.Milliseconds())
		if r.Open {
			end = "…"
		}
		fmt.Fprintf(&b, "%d-%s %s%s: %s\n", r.Begin.Milliseconds(), end, strings.Repeat("  ", r.Depth), r.Who, r.What)
	}
	return b.String()
}

func expect(t *testing.T, got Timeline, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.TrimLeft(want, "\n"), text(got)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

var scheduled = trace(
	span(Scheduler, Place, 0, 40), span(Mesos, Offer, 2, 20), span(Mesos, Launch, 40, 50), span(Scheduler, Bind, 50, 60),
	span(Scheduler, Running, 805, 805),
)

var started = trace(
	span(Executor, Take, 42, 48), span(APIServer, Bound, 58, 58),
	span(Runtime, "run the sandbox", 360, 560), span(Engine, "create", 360, 400), span(Engine, "start", 400, 550), span(Network, "attach", 550, 559),
	span(Runtime, "create container web", 580, 620), span(Runtime, "start container web", 620, 760),
	span(APIServer, Running, 800, 800), span(APIServer, Ready, 900, 900),
)

func TestTimelineFillsWhatTheKubeletDoes(t *testing.T) {
	got := Join(scheduled, started, at(5000))
	expect(t, got, `
0-40 scheduler: find an agent and an offer
2-20   Mesos: offer resources
40-50 Mesos: launch the task
42-48   executor: take the task
50-60 scheduler: bind the pod
58-58 API server: pod is bound
60-360 kubelet: volumes, cgroups
360-560 runtime: run the sandbox
360-400   Docker Engine: create
400-550   Docker Engine: start
550-559   network: attach
560-580 kubelet: images, configuration, end of init containers
580-620 runtime: create container web
620-760 runtime: start container web
760-800 kubelet: report the status
800-800 API server: pod runs
800-900 kubelet: wait until the containers are ready
805-805 scheduler: pod runs
900-900 API server: pod is ready
`)
	if got.Running != 800*time.Millisecond || got.Ready != 900*time.Millisecond {
		t.Errorf("it ran after %s and was ready after %s", got.Running, got.Ready)
	}
}

// TestTimelineIsCovered: its rows of depth 0 leave no time out until the pod runs.
func TestTimelineIsCovered(t *testing.T) {
	for name, traces := range map[string][2]*Trace{
		"both": {scheduled, started}, "no scheduler": {nil, started}, "no minion": {scheduled, nil},
		"waiting": {trace(span(Scheduler, Place, 0, 40), span(Mesos, Launch, 70, 90)), nil},
	} {
		got := Join(traces[0], traces[1], at(1000))
		end := got.Running
		if end == 0 {
			end = at(1000).Sub(got.Begin)
		}
		covered := time.Duration(0)
		for _, r := range got.Rows {
			if r.Depth == 0 && !r.Moment() && r.Begin <= covered {
				covered = max(covered, r.End)
			}
		}
		if covered < end {
			t.Errorf("%s: nothing tells what was after %s of %s:\n%s", name, covered, end, text(got))
		}
	}
}

func TestTimelineOfAPodThatDoesNotRunYet(t *testing.T) {
	pulling := trace(span(Executor, Take, 42, 48), span(APIServer, Bound, 58, 58), Span{Who: Runtime, What: "pull image x", Begin: at(100)})
	got := Join(trace(scheduled.Spans[:4]...), pulling, at(5000))
	expect(t, got, `
0-40 scheduler: find an agent and an offer
2-20   Mesos: offer resources
40-50 Mesos: launch the task
42-48   executor: take the task
50-60 scheduler: bind the pod
58-58 API server: pod is bound
60-100 kubelet: volumes, cgroups
100-… runtime: pull image x
`)
	got = Join(trace(scheduled.Spans[:4]...), trace(pulling.Spans[:2]...), at(5000))
	if last := got.Rows[len(got.Rows)-1]; last.Who != Kubelet || last.What != Prepare || !last.Open {
		t.Errorf("it waits for %+v, want the kubelet's volumes", last)
	}
}

// TestTimelineShowsWhatIsDoneMeanwhile: nobody waits for a sandbox that is made ahead.
func TestTimelineShowsWhatIsDoneMeanwhile(t *testing.T) {
	early := trace(started.Spans[0], started.Spans[1],
		span(Runtime, Ahead, 59, 240), span(Engine, "create", 59, 90), span(Runtime, Turn, 90, 95), span(Engine, "start", 95, 240),
		span(Runtime, "run the sandbox", 360, 370), span(Network, "attach", 362, 368), span(APIServer, Running, 800, 800))
	expect(t, Join(trace(scheduled.Spans[:4]...), early, at(5000)), `
0-40 scheduler: find an agent and an offer
2-20   Mesos: offer resources
40-50 Mesos: launch the task
42-48   executor: take the task
50-60 scheduler: bind the pod
58-58 API server: pod is bound
59-240   runtime: make the sandbox ahead
59-90     Docker Engine: create
60-360 kubelet: volumes, cgroups
90-95     runtime: wait for other starts
95-240     Docker Engine: start
360-370 runtime: run the sandbox
362-368   network: attach
370-800 kubelet: report the status
800-800 API server: pod runs
`)
	early.Spans[2].End = at(365) // the kubelet comes first
	if row := Join(trace(scheduled.Spans[:4]...), early, at(5000)).Rows[11]; row.What != "run the sandbox" || row.Depth != 0 {
		t.Errorf("the kubelet's call is %+v", row)
	}
}

func TestTimelineWithoutTheMinion(t *testing.T) {
	expect(t, Join(scheduled, nil, at(5000)), `
0-40 scheduler: find an agent and an offer
2-20   Mesos: offer resources
40-50 Mesos: launch the task
50-60 scheduler: bind the pod
60-805 kubelet: not known: no spans of this pod
805-805 scheduler: pod runs
`)
}

func TestTimelineWithoutTheScheduler(t *testing.T) {
	got := Join(nil, trace(started.Spans[:2]...), at(142))
	expect(t, got, `
0-6 executor: take the task
6-16 scheduler: not known: no spans of this pod
16-16 API server: pod is bound
16-… kubelet: volumes, cgroups
`)
	if !got.Begin.Equal(at(42)) {
		t.Errorf("it begins at %s", got.Begin)
	}
}

func TestTimelineOfANodesFirstPod(t *testing.T) {
	late := trace(started.Spans[0], span(APIServer, Bound, 200, 200), span(Runtime, "run the sandbox", 360, 560), span(APIServer, Running, 800, 800))
	expect(t, Join(trace(scheduled.Spans[:4]...), late, at(5000)), `
0-40 scheduler: find an agent and an offer
2-20   Mesos: offer resources
40-50 Mesos: launch the task
42-48   executor: take the task
50-60 scheduler: bind the pod
60-200 minion: begin to watch the node's pods
200-200 API server: pod is bound
200-360 kubelet: volumes, cgroups
360-560 runtime: run the sandbox
560-800 kubelet: report the status
800-800 API server: pod runs
`)
}

func TestTimelineIsInTheSchedulersTime(t *testing.T) {
	for _, behind := range []int{-3000, 3000} {
		var node Trace
		for _, s := range started.Spans {
			node.Spans = append(node.Spans, s.later(time.Duration(-behind)*time.Millisecond))
		}
		got := Join(scheduled, &node, at(5000))
		if first := got.Rows[0]; first.What != Place {
			t.Errorf("node %d ms behind: the first row is %+v", behind, first)
		}
		if off := got.Skew - time.Duration(behind)*time.Millisecond; off.Abs() > 10*time.Millisecond {
			t.Errorf("the node is %d ms behind, and said to be %s", behind, got.Skew)
		}
		if off := got.Running - 800*time.Millisecond; off.Abs() > 10*time.Millisecond {
			t.Errorf("node %d ms behind: it ran after %s", behind, got.Running)
		}
	}
}

func TestTimelineShowsRetries(t *testing.T) {
	failed := span(Mesos, Launch, 10, 20)
	failed.Failed = true
	got := Join(trace(span(Scheduler, Place, 0, 10), failed, span(Scheduler, Place, 1020, 1030), span(Mesos, Launch, 1030, 1040)), nil, at(1040))
	expect(t, got, `
0-10 scheduler: find an agent and an offer
10-20 Mesos: launch the task
20-1020 scheduler: wait before the next attempt
1020-1030 scheduler: find an agent and an offer
1030-1040 Mesos: launch the task
`)
}
