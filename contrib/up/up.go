// Package up brings the parts of a cluster up on one machine in order, tells the person at the terminal what is going
// on, and stops them in the opposite order. It knows nothing of what the parts do and must not import them:
// contrib/cli says which parts there are. Start reading at Run.
package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Part is one thing that has to run for the cluster to be there.
type Part struct {
	// Name is what the person reads, such as "control plane".
	Name string
	// Run does the part's work until ctx ends, and has joined its goroutines when it returns. It calls ready once, when
	// the parts after it may start, with a few words on what is there now. Returning before ctx ends is a failure.
	Run func(ctx context.Context, ready func(detail string)) error
	// Beside says that it does not need the part before it: both stop at the same time.
	Beside bool
	// Together says that it can start without the part before it: both start at the same time.
	Together bool
}

// running is a part that was started. exited is closed after err is set.
type running struct {
	Part
	cancel context.CancelFunc
	exited chan struct{}
	err    error
}

// Run starts the parts one after another, each when the one before is ready (see Part.Together), then calls up and stays until ctx ends, up
// or a part fails. Whatever was started is stopped again, last first (see Part.Beside), before it returns. It returns nil only if ctx ended and
// every part stopped cleanly. up may be nil.
func Run(ctx context.Context, out io.Writer, parts []Part, up func() error) error {
	progress := &progress{out: out, start: time.Now()}
	var started []*running
	failed := make(chan *running, len(parts))
	err := func() error {
		for len(parts) > 0 {
			group := together(parts)
			these, err := startAll(ctx, parts[:group], progress, failed)
			started = append(started, these...)
			if err != nil || ctx.Err() != nil {
				return err
			}
			parts = parts[group:]
		}
		if up != nil {
			if err := up(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case r := <-failed:
			return r.failure()
		}
	}()
	return errors.Join(err, stop(started, progress))
}

// together counts the parts that start first, at the same time.
func together(parts []Part) int {
	end := 1
	for end < len(parts) && parts[end].Together {
		end++
	}
	return end
}

// startAll starts parts at the same time. An error of one ends the wait for the others.
func startAll(ctx context.Context, parts []Part, progress *progress, failed chan *running) ([]*running, error) {
	started := make([]*running, len(parts))
	group, ctx := errgroup.WithContext(ctx)
	for i, part := range parts {
		group.Go(func() (err error) {
			started[i], err = start(ctx, part, progress, failed)
			return err
		})
	}
	return started, group.Wait()
}

// start runs the part and waits until it is ready, has failed, another part has failed or ctx ends. The part's own
// context does not end with ctx: stop ends it in its turn.
func start(ctx context.Context, part Part, progress *progress, failed chan *running) (*running, error) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &running{Part: part, cancel: cancel, exited: make(chan struct{})}
	ready := make(chan string, 1)
	done := progress.begin("starting " + part.Name)
	go func() {
		defer close(r.exited)
		r.err = part.Run(own, func(detail string) {
			select {
			case ready <- detail:
			default:
			}
		})
		if own.Err() == nil {
			failed <- r
		}
	}()
	select {
	case detail := <-ready:
		done(part.Name + ": " + detail)
		return r, nil
	case f := <-failed:
		done("")
		if f == r {
			return r, r.failure()
		}
		return r, fmt.Errorf("while %s started: %w", part.Name, f.failure())
	case <-ctx.Done():
		done("")
		return r, nil
	}
}

// failure is why a part ended by itself. A part's own error says what it could not do.
func (r *running) failure() error {
	if r.err == nil {
		return fmt.Errorf("%s ended without an error", r.Name)
	}
	return r.err
}

// stop ends the parts, last first, each joined before the next is asked, but for those beside each other.
func stop(started []*running, progress *progress) error {
	var errs []error
	for end := len(started); end > 0; {
		begin := end - 1
		for begin > 0 && started[begin].Beside {
			begin--
		}
		var group sync.WaitGroup
		problems := make([]error, end-begin)
		for i, r := range started[begin:end] {
			group.Go(func() { problems[i] = r.stop(progress) })
		}
		group.Wait()
		errs = append(errs, problems...)
		end = begin
	}
	return errors.Join(errs...)
}

// stop ends the part and waits for its end.
func (r *running) stop(progress *progress) error {
	defer r.cancel()
	select {
	case <-r.exited:
		return nil
	default:
	}
	done := progress.begin("stopping " + r.Name)
	r.cancel()
	<-r.exited
	done(r.Name + " stopped")
	if r.err != nil && !errors.Is(r.err, context.Canceled) {
		return fmt.Errorf("cannot stop %s cleanly: %w", r.Name, r.err)
	}
	return nil
}

// quiet is how long something may take before a person is told that it is under way.
const quiet = 2 * time.Second

// progress writes one line for each thing that is done, and a line before it if it takes longer than quiet.
type progress struct {
	out   io.Writer
	start time.Time
	mu    sync.Mutex // guards out: one line at a time
}

// begin tells that something is under way, should it take long. The function it returns ends that; it writes the line
// given, if any, and has silenced the telling when it returns.
func (p *progress) begin(what string) func(done string) {
	finished, told := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(told)
		for wait := quiet; ; wait = 10 * time.Second {
			select {
			case <-finished:
				return
			case <-time.After(wait):
				p.line(what + " …")
			}
		}
	}()
	return func(done string) {
		close(finished)
		<-told
		if done != "" {
			p.line(done)
		}
	}
}

func (p *progress) line(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "[%6.1fs] %s\n", time.Since(p.start).Seconds(), text)
}
