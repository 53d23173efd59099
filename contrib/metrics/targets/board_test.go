package targets

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/discovery/targetgroup"
)

func TestBoardTellsWhatIsThereAndWhatIsGone(t *testing.T) {
	group := func(source, address string) *targetgroup.Group {
		return &targetgroup.Group{Source: source, Targets: at(address)}
	}
	var b Board
	b.Set(map[string][]*targetgroup.Group{JobPods: {group("a", "10.0.0.1:1"), group("b", "10.0.0.2:1")}, JobEtcd: {group("e", "10.0.0.9:1")}})
	told, ended := make(chan []*targetgroup.Group), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(ended)
		b.Tell(ctx, JobPods, told)
	}()
	compare := func(want ...*targetgroup.Group) {
		t.Helper()
		if diff := cmp.Diff(want, <-told); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	compare(group("a", "10.0.0.1:1"), group("b", "10.0.0.2:1"))
	b.Set(map[string][]*targetgroup.Group{JobPods: {group("b", "10.0.0.3:1")}})
	compare(group("b", "10.0.0.3:1"), &targetgroup.Group{Source: "a"})
	b.Set(nil)
	compare(&targetgroup.Group{Source: "b"})
	cancel()
	<-ended
}
