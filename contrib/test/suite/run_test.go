package suite

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRunUndoesTheLastFirstWhateverFails(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	broken, stuck := errors.New("broken"), errors.New("stuck")
	for name, test := range map[string]struct {
		do     func(context.Context) error
		enough func() bool
		want   string // in the error
		done   []string
	}{
		"nothing fails": {do: func(context.Context) error { return nil }, want: "stuck", done: []string{"first", "second", "third", "undo second", "undo first"}},
		"a step fails":  {do: func(context.Context) error { return broken }, want: "cannot do the second: broken", done: []string{"first", "second", "undo second", "undo first"}},
		"ctx ends": {do: func(context.Context) error { cancel(); return broken }, want: `stopped at "do the second": context canceled`,
			done: []string{"first", "second", "undo second", "undo first"}},
		"ctx ends, and there is a result": {do: func(context.Context) error { cancel(); return nil }, enough: func() bool { return true }, want: "stuck",
			done: []string{"first", "second", "third", "undo second", "undo first"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel = context.WithCancel(t.Context())
			defer cancel()
			var done []string
			var undo Undo
			step := func(name string, do func(context.Context) error) func(context.Context) error {
				return func(ctx context.Context) error {
					done = append(done, name)
					if name != "third" {
						undo.Add(func(ctx context.Context) error {
							done = append(done, "undo "+name)
							return errors.Join(stuck, ctx.Err())
						})
					}
					return do(ctx)
				}
			}
			nothing := func(context.Context) error { return nil }
			err := Run(ctx, Plan{Suite: "test-of-run", Build: t.TempDir(), Undo: &undo, UndoLimit: time.Minute, Enough: test.enough, Steps: []Step{
				{"do the first", step("first", nothing)}, {"do the second", step("second", test.do)}, {"do the third", step("third", nothing)},
			}})
			if err == nil || !strings.Contains(err.Error(), test.want) || !errors.Is(err, stuck) {
				t.Errorf("the error is %v, want %s", err, test.want)
			}
			if diff := cmp.Diff(test.done, done); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestOneRunOfASuiteAtATime(t *testing.T) {
	err := Run(t.Context(), Plan{Suite: "test-of-two", Build: t.TempDir(), Undo: &Undo{}, UndoLimit: time.Minute, Steps: []Step{{"start another", func(ctx context.Context) error {
		return Run(ctx, Plan{Suite: "test-of-two", Undo: &Undo{}})
	}}}})
	if err == nil || !strings.Contains(err.Error(), "another run") {
		t.Errorf("the error is %v", err)
	}
}
