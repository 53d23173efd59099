package metrics

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
)

func TestErrorsThatRepeatAreLoggedOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		s := (&sparing{funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{}).GetSink(), &seen{}}).WithName("scraper")
		for range 80 { // a quarter of a minute apart
			s.Error(errors.New("connection refused"), "Failed to scrape node", "node", "a")
			s.Error(errors.New("no address matched types [InternalIP]"), "Failed to scrape node", "node", "idle")
			time.Sleep(15 * time.Second)
		}
		s.Error(errors.New("connection refused"), "Failed to scrape node", "node", "b")
		a := `"msg"="Failed to scrape node" "error"="connection refused" "node"="a"`
		want := []string{a, a, `"msg"="Failed to scrape node" "error"="connection refused" "node"="b"`}
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestErrorsThatAreRememberedAreBounded(t *testing.T) {
	var s seen
	for i := range 10 * maxRemembered {
		if !s.fresh(time.Now(), fmt.Sprint(i)) {
			t.Errorf("%d was not logged", i)
		}
	}
	if len(s.at) > maxRemembered {
		t.Errorf("%d are remembered", len(s.at))
	}
}
