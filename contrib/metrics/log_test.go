package metrics

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/contrib/metrics/seldom"
)

func TestErrorsThatRepeatAreLoggedOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		s := (&sparing{funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{}).GetSink(), &seldom.Seen{}}).WithName("scraper")
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
