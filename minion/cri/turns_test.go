package cri

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestContainersComeBeforeSandboxesAndNoMoreThanTheTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &turns{free: 2}
		started := make(chan string, 5)
		begin := func(name, kind string, takes time.Duration) {
			go func() {
				release, err := all.take(t.Context(), kind)
				if err != nil {
					t.Error(err)
					return
				}
				started <- name
				time.Sleep(takes)
				release()
			}()
			synctest.Wait()
		}
		begin("sandbox 1", kindSandbox, 2*time.Second)
		begin("sandbox 2", kindSandbox, 3*time.Second)
		begin("sandbox 3", kindSandbox, time.Second)
		begin("sandbox 4", kindSandbox, time.Second)
		begin("container 1", kindContainer, 5*time.Second)
		time.Sleep(time.Minute)
		synctest.Wait()
		close(started)
		var order []string
		for name := range started {
			order = append(order, name)
		}
		if want := []string{"sandbox 1", "sandbox 2", "container 1", "sandbox 3", "sandbox 4"}; !slices.Equal(order, want) {
			t.Errorf("they started as %q, want %q", order, want)
		}
		if all.free != 2 {
			t.Errorf("%d turns are free at the end", all.free)
		}
	})
}

func TestStartThatHangsOrIsGivenUpTakesNoTurnForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &turns{free: 1}
		hangs, err := all.take(t.Context(), kindContainer)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := all.take(ctx, kindContainer); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it got a turn of another, or %v", err)
		}
		began := time.Now()
		release, err := all.take(t.Context(), kindSandbox)
		must(t, err)
		if waited := time.Since(began); waited != startPatience-time.Second {
			t.Errorf("it waited %s for a start that hangs", waited)
		}
		hangs()
		release()
		if all.free != 1 {
			t.Errorf("%d turns are free at the end", all.free)
		}
	})
}
