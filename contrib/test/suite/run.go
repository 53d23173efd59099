package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// Step is one part of a run. Its name, an imperative, is printed before Do is called, and is part of the error if that fails.
type Step struct {
	Name string
	Do   func(context.Context) error
}

// Undo is a stack of cleanup functions. The zero value is ready. One goroutine may use it.
type Undo []func(context.Context) error

// Add adds a function, which All calls before those added earlier.
func (u *Undo) Add(end func(context.Context) error) { *u = append(*u, end) }

// All calls all functions, the last first, even if some fail, and returns all errors.
func (u *Undo) All(ctx context.Context) (err error) {
	for i := len(*u) - 1; i >= 0; i-- {
		err = errors.Join(err, (*u)[i](ctx))
	}
	return err
}

// Plan is a run of a suite.
type Plan struct {
	Suite     string // its name; one run of it at a time has the machine
	Build     string // the directory for what stays, which is made if need be
	Steps     []Step
	Undo      *Undo // to which the steps add
	UndoLimit time.Duration
	// Enough tells whether there is a result although ctx ended before all steps were taken; nil is never.
	Enough func() bool
}

// Run runs the steps until one fails or ctx ends, and always cleans up.
func Run(ctx context.Context, p Plan) (err error) {
	alone, err := ClaimMachine(p.Suite)
	if err != nil {
		return err
	}
	defer alone.Close()
	if err := os.MkdirAll(p.Build, 0o755); err != nil {
		return err
	}
	defer func() {
		fmt.Println("== stop and remove everything")
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.UndoLimit)
		defer cancel()
		err = errors.Join(err, p.Undo.All(last))
	}()
	for _, step := range p.Steps {
		fmt.Println("== " + step.Name)
		err := step.Do(ctx)
		if ctx.Err() != nil && (p.Enough == nil || !p.Enough()) {
			return fmt.Errorf("stopped at %q: %w", step.Name, context.Cause(ctx))
		}
		if err != nil {
			return fmt.Errorf("cannot %s: %w", step.Name, err)
		}
	}
	return nil
}
