package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/contrib/test/chrome"
)

// growth has what must not grow while pods change.
type growth struct {
	name   string
	values []float64
}

// sampleEvery is the time between two measurements while pods change.
const sampleEvery = 10 * time.Second

// change changes pods and nodes for some minutes while a page shows them.
func (u *uiBench) change(ctx context.Context) error {
	if err := u.mark(ctx, "created"); err != nil {
		return err
	}
	if err := u.tab.Go(podsTable); err != nil {
		return err
	}
	if _, err := u.tab.When(isLive); err != nil {
		return err
	}
	stop := u.cluster.churn(ctx)
	began := time.Now()
	s := samples{filter: figure{name: "ui_change_filter_key", unit: "ms"}, shown: figure{name: "ui_change_shown", unit: "ms"}}
	var err error
	for i := 1; err == nil && time.Since(began) < time.Duration(u.minutes)*time.Minute; i++ {
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(began.Add(time.Duration(i) * sampleEvery))):
		}
		if err = ctx.Err(); err == nil {
			err = u.sample(ctx, &s, i)
		}
		u.noteLoad()
	}
	took := time.Since(began)
	changed, failed := stop()
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	s.print(float64(changed)/took.Seconds(), took)
	return errors.Join(s.grown(), u.sameNow(ctx))
}

// samples are what was measured while pods changed.
type samples struct {
	filter, shown figure
	pages         []chrome.Usage
	servers       []serving
}

// sample measures once.
func (u *uiBench) sample(ctx context.Context, s *samples, i int) error {
	usage, err := u.tab.Usage()
	if err != nil {
		return err
	}
	server, err := u.server.serving(ctx)
	if err != nil {
		return err
	}
	s.pages, s.servers = append(s.pages, usage), append(s.servers, server)
	live, err := chrome.Eval[string](u.tab.Tab, `document.querySelector(".live").textContent`)
	if err != nil {
		return err
	}
	if live != "live" {
		return fmt.Errorf("the page says %q of a cluster that answers", live)
	}
	worst, _, err := u.filter("marked")
	if err != nil {
		return err
	}
	s.filter.add(worst)
	return u.seen(ctx, &s.shown, i)
}

// seen measures how soon a change is on the screen.
func (u *uiBench) seen(ctx context.Context, f *figure, i int) error {
	search := `const f = document.querySelector("[data-filter]"); f.value = %q; f.dispatchEvent(new Event("input", {bubbles: true}))`
	if _, err := u.tab.Took(fmt.Sprintf(search, "marked"), `probe.rows().length === 1`); err != nil {
		return err
	}
	reason := fmt.Sprintf("Mark%d", i)
	if err := u.mark(ctx, reason); err != nil {
		return err
	}
	changed := time.Now()
	if _, err := u.tab.When(fmt.Sprintf(`probe.rows()[0].innerText.includes(%q)`, reason)); err != nil {
		return err
	}
	f.add(time.Since(changed))
	_, err := u.tab.Took(fmt.Sprintf(search, ""), `!probe.count().includes(" of ")`)
	return err
}

// mark gives the pod "marked" a status that the page shows.
func (u *uiBench) mark(ctx context.Context, reason string) error {
	pods := u.cluster.kube.CoreV1().Pods(team(0))
	if reason == "created" {
		pod := hollowPod("marked", 0)
		pod.Namespace, pod.Name = team(0), "marked"
		pod.Spec.Tolerations = hollowTolerations
		_, err := pods.Create(ctx, pod, metav1.CreateOptions{})
		return err
	}
	_, err := pods.Patch(ctx, "marked", types.MergePatchType, fmt.Appendf(nil, `{"status":{"reason":%q}}`, reason), metav1.PatchOptions{}, "status")
	return err
}

// print prints figures.
func (s *samples) print(rate float64, took time.Duration) {
	first, last := s.pages[0], s.pages[len(s.pages)-1]
	between := took.Seconds() - sampleEvery.Seconds()
	figures := []figure{
		s.filter, s.shown, {name: "ui_change_rate", unit: "pods/s", rounds: []float64{rate}},
		{name: "ui_change_received", unit: "kB/s", rounds: []float64{(last.Bytes - first.Bytes) / between / 1000}},
		{name: "ui_change_cpu", unit: "%", rounds: []float64{100 * (last.Busy - first.Busy) / between}},
	}
	for _, g := range s.growths() {
		figures = append(figures, figure{name: "ui_change_" + g.name + "_grown", unit: "%", rounds: []float64{g.percent()}})
	}
	for i := range figures {
		figures[i].print(os.Stdout)
	}
}

func (s *samples) growths() []growth {
	all := []growth{{name: "page_heap"}, {name: "page_nodes"}, {name: "page_listeners"}, {name: "server_heap"}, {name: "server_goroutines"}}
	for i, p := range s.pages {
		for j, v := range []float64{p.Heap, p.Nodes, p.Listeners, float64(s.servers[i].Heap), float64(s.servers[i].Goroutines)} {
			all[j].values = append(all[j].values, v)
		}
	}
	return all
}

// percent is by how much the values of the last minute are above those around the second minute; for a short run, those after a fifth.
func (g growth) percent() float64 {
	const minute = int(time.Minute / sampleEvery)
	from := min(2*minute, len(g.values)/5)
	early, late := g.values[from:min(from+minute, len(g.values))], g.values[max(0, len(g.values)-minute):]
	return 100 * (median(late)/median(early) - 1)
}

// grown is an error if anything grew.
func (s *samples) grown() (err error) {
	for _, g := range s.growths() {
		if g.percent() > mostGrown {
			err = errors.Join(err, fmt.Errorf("%s grew by %.1f %%: %.0f", g.name, g.percent(), g.values))
		}
	}
	return err
}
