package podtrace

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
)

func podNamed(name, uid string) Pod {
	return Pod{PodKey: api.PodKey{Namespace: "default", Name: name}, UID: types.UID(uid)}
}

var web = api.PodKey{Namespace: "default", Name: "web"}

func TestBookKeepsTheLatestPods(t *testing.T) {
	b := NewBook(2)
	for _, uid := range []string{"1", "2", "3"} {
		b.Open(podNamed("web", uid))
		b.Add(types.UID(uid), Span{Who: Scheduler, What: Place})
	}
	got := b.Of(web)
	if len(got) != 2 || got[0].UID != "3" || got[1].UID != "2" {
		t.Errorf("the book has %+v, want the last two, the latest first", got)
	}
	b.Open(podNamed("web", "2"))
	if got := b.Of(web); len(got[1].Spans) != 1 {
		t.Errorf("a page that is opened again has lost its spans: %+v", got[1])
	}
	if got := b.Of(api.PodKey{Namespace: "other", Name: "web"}); len(got) != 0 {
		t.Errorf("a pod of another namespace has %+v", got)
	}
}

func TestBookDropsSpansOfPodsWithoutAPage(t *testing.T) {
	b := NewBook(1)
	b.Add("1", Span{})
	b.Begin("1", Runtime, "x")(nil)
	b.Open(podNamed("web", ""))
	if got := b.Of(web); len(got) != 0 {
		t.Errorf("the book has %+v of a pod that nobody opened, or that has no UID", got)
	}
}

func TestBookBoundsTheSpansOfAPod(t *testing.T) {
	b := NewBook(1)
	b.Open(podNamed("web", "1"))
	for range maxSpans + 3 {
		b.Begin("1", Runtime, "start")(nil)
	}
	if got := b.Of(web)[0]; len(got.Spans) != maxSpans || got.Missing != 3 {
		t.Errorf("the book has %d spans and misses %d, want %d and 3", len(got.Spans), got.Missing, maxSpans)
	}
}

func TestMomentIsTheFirstOfItsKind(t *testing.T) {
	b := NewBook(1)
	b.Open(podNamed("web", "1"))
	first := time.Unix(1, 0)
	b.Moment("1", APIServer, Running, first)
	b.Moment("1", APIServer, Running, first.Add(time.Second))
	want := []Span{{Who: APIServer, What: Running, Begin: first, End: first}}
	if diff := cmp.Diff(want, b.Of(web)[0].Spans); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSpanIsOpenUntilItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBook(1)
		b.Open(podNamed("web", "1"))
		end := b.Begin("1", Runtime, "run the sandbox")
		if got := b.Of(web)[0].Spans; !got[0].End.IsZero() {
			t.Errorf("the span has ended already: %+v", got)
		}
		time.Sleep(time.Second)
		before := b.Of(web)[0].Spans
		end(errors.New("no"))
		got := b.Of(web)[0].Spans[0]
		if got.End.Sub(got.Begin) != time.Second || !got.Failed {
			t.Errorf("the span is %+v, want one of a second that failed", got)
		}
		if !before[0].End.IsZero() {
			t.Error("what the book had given away has changed")
		}
	})
}

func TestNilBookKeepsNothing(t *testing.T) {
	var b *Book
	b.Open(podNamed("web", "1"))
	b.Begin("1", Runtime, "x")(nil)
	b.Moment("1", APIServer, Ready, time.Now())
	b.Runs("1", "n1")
	if got := b.Of(web); len(got) != 0 {
		t.Errorf("it has %+v", got)
	}
}

func TestBookIsUsedConcurrently(t *testing.T) {
	b := NewBook(4)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			uid := fmt.Sprint(i)
			b.Open(podNamed("web", uid))
			end := b.Begin(types.UID(uid), Runtime, "x")
			b.Of(web)
			end(nil)
		})
	}
	group.Wait()
	if got := b.Of(web); len(got) != 4 {
		t.Errorf("it has %d pods, want 4", len(got))
	}
}
