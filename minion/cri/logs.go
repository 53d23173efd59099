package cri

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/backoff"
)

// logTask is one container's log to copy into CRI's format.
type logTask struct {
	id   string
	path string
	tty  bool
}

// logKeeper follows the Engine's logs of all containers and writes them in CRI's format. It finds its position in the written log
// itself, so no line is lost or doubled however it ends.
type logKeeper struct {
	docker *client.Client
	log    logrus.FieldLogger
	do     chan func(map[string]*follower) // run by the one goroutine that owns the followers
	ended  chan struct{}
}

// follower is the goroutine that follows one container's log.
type follower struct {
	task   logTask
	cancel context.CancelFunc
	opened chan struct{} // closed when file is set
	file   *logFile
	done   chan struct{} // closed when the log is complete, or was given up
}

func newLogKeeper(docker *client.Client, log logrus.FieldLogger) *logKeeper {
	return &logKeeper{docker: docker, log: log, do: make(chan func(map[string]*follower)), ended: make(chan struct{})}
}

// run owns the followers until ctx ends, and joins them before it returns.
func (k *logKeeper) run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	defer close(k.ended)
	followers := map[string]*follower{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case request := <-k.do:
			request(followers)
		}
		for _, f := range followers {
			if f.cancel == nil { // new
				var followCtx context.Context
				followCtx, f.cancel = context.WithCancel(ctx)
				group.Go(func() { k.follow(followCtx, f) })
			}
		}
	}
}

// ask runs the request in the goroutine that owns the followers; it is dropped when run has ended.
func (k *logKeeper) ask(request func(map[string]*follower)) {
	done := make(chan struct{})
	select {
	case k.do <- func(m map[string]*follower) { request(m); close(done) }:
		<-done
	case <-k.ended:
	}
}

// keep starts following the container's log, unless it is followed already.
func (k *logKeeper) keep(t logTask) {
	if t.path == "" {
		return
	}
	k.ask(func(m map[string]*follower) {
		if m[t.id] == nil {
			m[t.id] = &follower{task: t, opened: make(chan struct{}), done: make(chan struct{})}
		}
	})
}

// forget stops following a container that is about to be removed.
func (k *logKeeper) forget(id string) {
	k.ask(func(m map[string]*follower) {
		if f := m[id]; f != nil {
			f.cancel()
			delete(m, id)
		}
	})
}

func (k *logKeeper) find(id string) (f *follower) {
	k.ask(func(m map[string]*follower) { f = m[id] })
	return f
}

// reopen continues in a new file at the path of the container's log.
func (k *logKeeper) reopen(ctx context.Context, id string) error {
	f := k.find(id)
	if f == nil {
		return errors.New("the container has no log")
	}
	select {
	case <-f.opened:
		return f.file.reopen()
	case <-f.done:
		return errors.New("the log is complete")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drained waits until the log of an exited container is complete, but at most drainTimeout: the container's state matters more than
// its last line.
func (k *logKeeper) drained(ctx context.Context, id string) {
	f := k.find(id)
	if f == nil {
		return
	}
	timeout := time.NewTimer(drainTimeout)
	defer timeout.Stop()
	select {
	case <-f.done:
	case <-timeout.C:
	case <-ctx.Done():
	}
}

const drainTimeout = 2 * time.Second

// maxLogWait bounds the wait between two attempts to follow a log. It is shorter than drainTimeout, so that the log of a container
// that exited while the Engine was down is complete when the Engine is back and reports the exit.
const maxLogWait = time.Second

// follow copies one log until it is complete. After a failure it resumes at the end of the written log.
func (k *logKeeper) follow(ctx context.Context, f *follower) {
	defer close(f.done)
	log := k.log.WithField("container", f.task.id)
	file, at, err := openLog(f.task.path)
	if err != nil {
		log.WithError(err).Error("cannot copy the container's log")
		return
	}
	defer file.close()
	f.file = file
	close(f.opened)
	failing := false // so that an outage is logged once
	begin := backoff.Between(50*time.Millisecond, maxLogWait)
	pauses := begin
	// The first wait is zero: a stream that ends cleanly means that the container has exited, and one more read completes the log.
	for wait := time.Duration(0); ; wait = pauses.Step() {
		began := time.Now()
		complete, err := k.copyLog(ctx, f, at)
		if complete || ctx.Err() != nil || isNotFound(err) {
			return
		}
		anew := errors.Is(err, errRepeated) || errors.Is(err, errMarkNotFound)
		if err != nil && !anew && !failing {
			log.WithError(err).Warn("cannot copy the Engine's log, retrying")
		}
		failing = err != nil && !anew
		if errors.Is(err, errRepeated) || time.Since(began) > time.Minute {
			wait, pauses = 0, begin
		}
		if pause(ctx, wait) != nil {
			return
		}
		if at, err = file.mark(); err != nil {
			log.WithError(err).Error("cannot copy the container's log")
			return
		}
	}
}

// Windows are numbers of the Engine's last entries in which to search for a mark. The first is enough, unless the container wrote a
// lot while the server was down.
const (
	firstWindow = 1 << 10
	lastWindow  = 1 << 22
)

// copyLog copies the Engine's log from a mark on. complete is true if the container had exited before it was read to the end.
func (k *logKeeper) copyLog(ctx context.Context, f *follower, at mark) (complete bool, err error) {
	c, err := k.docker.ContainerInspect(ctx, f.task.id)
	if err != nil {
		return false, err
	}
	if len(at) > 0 {
		if err := k.catchUp(ctx, f, at); err != nil || !c.State.Running {
			return err == nil, err
		}
		if at, err = f.file.mark(); err != nil {
			return false, err
		}
	}
	err = k.copyFrom(ctx, f, at, c.State.Running)
	return err == nil && !c.State.Running, err
}

// catchUp copies the Engine's log from the mark on, without following it. Only then can it detect that the mark is gone because the
// Engine has rotated it away.
func (k *logKeeper) catchUp(ctx context.Context, f *follower, at mark) error {
	err := k.copyFrom(ctx, f, at, false)
	if !errors.Is(err, errMarkNotFound) {
		return err
	}
	whole := &seeker{mark: at}
	err = k.copyEntries(ctx, f, whole, false)
	if !errors.Is(err, errMarkNotFound) {
		return err
	}
	if whole.run == 0 {
		k.log.WithField("container", f.task.id).Warn("lost lines of the container's log: it wrote more than Docker Engine keeps while the log was not being copied")
	}
	// If only lines before them are missing, the mark's last lines are there.
	return k.copyEntries(ctx, f, &seeker{mark: at[len(at)-whole.run:]}, false)
}

// copyFrom searches for the mark in ever larger windows, and copies the fields below it.
func (k *logKeeper) copyFrom(ctx context.Context, f *follower, at mark, follow bool) (err error) {
	for window := firstWindow; window <= lastWindow; window *= 16 {
		from := &seeker{mark: at, window: window}
		err = k.copyEntries(ctx, f, from, follow)
		if !errors.Is(err, errMarkNotFound) || from.seen < window { // fewer entries are the whole log
			break
		}
	}
	return err
}

// copyEntries copies the entries after the mark from the seeker's window of the Engine's log.
func (k *logKeeper) copyEntries(ctx context.Context, f *follower, from *seeker, follow bool) error {
	options := container.LogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: follow}
	if len(from.mark) > 0 && from.window > 0 {
		options.Tail = strconv.Itoa(from.window)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := k.docker.ContainerLogs(ctx, f.task.id, options)
	if err != nil {
		return err
	}
	defer stream.Close()
	entries := &entryReader{r: bufio.NewReaderSize(stream, 64<<10), tty: f.task.tty}
	if follow {
		entries.repeats = new(repeats)
	}
	return copyEntries(entries, f.file.write, from)
}

// copyEntries writes all entries after the seeker's mark, batching what is available.
func copyEntries(entries *entryReader, write func([]byte) error, from *seeker) error {
	var batch []byte
	for found := len(from.mark) == 0; ; {
		e, err := entries.next()
		if !found && errors.Is(err, io.EOF) {
			return errMarkNotFound
		}
		if err == nil && !found {
			if found, err = from.seek(e.appendLine(batch[:0])); err == nil {
				continue
			}
			return err
		}
		if err == nil {
			line := len(batch)
			batch = e.appendLine(batch)
			if entries.repeats != nil && entries.repeats.see(batch[line:]) {
				batch, err = batch[:line], errRepeated
			}
		}
		if len(batch) > 0 && (err != nil || !entries.buffered() || len(batch) > 256<<10) {
			if err := write(batch); err != nil {
				return fmt.Errorf("cannot write the container's log: %w", err)
			}
			batch = batch[:0]
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// pause waits, or returns ctx's error if ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
