package supervise

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestChildThatWasHealthyAndHangsIsFoundOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		asked := 0
		err := Health{func(ctx context.Context) error {
			asked++
			switch {
			case asked <= 20: // it starts slowly
				return errors.New("connection refused")
			case asked == 21, asked == 24: // two failures in a row are no hang
				return nil
			}
			return hang(ctx)
		}, ProbeEvery}.watch(t.Context())
		if err == nil || !strings.Contains(err.Error(), "3 health checks") || asked != 27 {
			t.Errorf("after %d probes: %v", asked, err)
		}
		if took := time.Since(began); took > 24*ProbeEvery+5*(ProbeEvery+probeTimeout) {
			t.Errorf("it took %s", took)
		}
	})
}

func TestChildThatNeverBecomesHealthyIsFoundOutLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := Health{func(context.Context) error { return errors.New("no certificate yet") }, ProbeEvery}.watch(t.Context())
		if took := time.Since(began); err == nil || !strings.Contains(err.Error(), "no certificate yet") || took < startLimit || took > startLimit+2*ProbeEvery {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

func TestWatchOfAHealthyChildEndsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		err := Health{func(context.Context) error { return nil }, ProbeEvery}.watch(ctx)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestChildThatHangsIsKilledAndSaysWhy(t *testing.T) {
	ready := make(chan struct{})
	c := testChild("defy", &watchedBuffer{want: "ready", seen: ready})
	asked := 0
	c.Health = &Health{func(context.Context) error {
		<-ready
		if asked++; asked == 1 {
			return nil
		}
		return errors.New("no answer")
	}, 10 * time.Millisecond}
	err := c.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "km child: failed 3 health checks in a row: no answer") {
		t.Error(err)
	}
}
