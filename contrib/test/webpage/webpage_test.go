package webpage

import (
	"testing"

	"github.com/k8sm/k8sm/contrib/test/browser"
)

// TestWebPage is one test because a control plane and a browser take seconds to start. The parts share them.
func TestWebPage(t *testing.T) {
	c := start(t)
	c.populate(t)
	b := browser.Open(t, c.link(t, c.page))
	b.Await("What Kubernetes runs")

	// Those that change nothing that others see run side by side, each in a tab of its own.
	t.Run("side by side", func(t *testing.T) {
		t.Run("all pages can be used by everybody, and run nothing that others wrote", func(t *testing.T) { t.Parallel(); pagesAreGood(b.For(t)) })
		t.Run("who has no rights reads sentences", func(t *testing.T) { t.Parallel(); strangersReadSentences(b.For(t), c) })
		t.Run("buttons are there for those who may press them", func(t *testing.T) { t.Parallel(); buttonsAreForThoseWhoMay(b.For(t), c) })
		t.Run("an expired token leads to the log-in and back", func(t *testing.T) { t.Parallel(); expiredTokenLeadsBack(b.For(t), c) })
	})
	t.Run("somebody else's change is merged, and nothing is lost", func(t *testing.T) { changesAreMerged(b.For(t), c) })
	t.Run("wrong fields are shown at their lines", func(t *testing.T) { wrongFieldsHaveLines(b.For(t)) })
	t.Run("a page knows its cluster by name", func(t *testing.T) { pagesKnowTheName(t, c) })
	t.Run("a rollout is undone, paused and resumed", func(t *testing.T) { rolloutIsUndone(b.For(t), c) })
	t.Run("a CronJob runs now", func(t *testing.T) { cronJobRunsNow(b.For(t), c) })
	t.Run("a drained node waits for a budget", func(t *testing.T) { drainWaits(b.For(t), c) })
	t.Run("keys do all that a mouse does", func(t *testing.T) { keysSuffice(b.For(t), c) })
	t.Run("pages of others reach nothing", func(t *testing.T) { othersReachNothing(b.For(t), c) })
	t.Run("the page says that no scheduler or master answers", func(t *testing.T) { schedulerGoes(b.For(t), c) })
	t.Run("the page says that metrics and logs are away", func(t *testing.T) { extensionsGo(b.For(t), c) })
	t.Run("the page keeps what it showed while the API server is away", func(t *testing.T) { apiServerGoes(b.For(t), c) })
}
