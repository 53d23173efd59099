package cri

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/sirupsen/logrus"
)

// logTask is one container's log to keep in CRI's format.
type logTask struct {
	id   string
	path string
	tty  bool
}

// logKeeper follows the Engine's logs of all containers and writes them in CRI's format. Where it is in each, the
// written log itself tells: so nothing is lost or doubled however the keeper ends.
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
	opened chan struct{} // closed once file is set
	file   *logFile
	done   chan struct{} // closed once the log is complete, or given up
}

func newLogKeeper(docker *client.Client, log logrus.FieldLogger) *logKeeper {
	return &logKeeper{docker: docker, log: log, do: make(chan func(map[string]*follower)), ended: make(chan struct{})}
}

// run owns the followers until ctx ends and has joined them when it returns.
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
			if f.cancel == nil { // it is new
				var followCtx context.Context
				followCtx, f.cancel = context.WithCancel(ctx)
				group.Go(func() { k.follow(followCtx, f) })
			}
		}
	}
}

// ask runs the request in the goroutine that owns the followers; it is dropped once run has ended.
func (k *logKeeper) ask(request func(map[string]*follower)) {
	done := make(chan struct{})
	select {
	case k.do <- func(m map[string]*follower) { request(m); close(done) }:
		<-done
	case <-k.ended:
	}
}

// keep begins to keep the container's log unless it is kept already.
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

// forget ends the following of a container that is to be removed.
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

// reopen goes on in a new file at the path of the container's log.
func (k *logKeeper) reopen(ctx context.Context, id string) error {
	f := k.find(id)
	if f == nil {
		return errors.New("it has no log")
	}
	select {
	case <-f.opened:
		return f.file.reopen()
	case <-f.done:
		return errors.New("its log is complete")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drained waits until the log of a container that ended is complete, but no longer than drainTimeout: the container's
// state is worth more than its last line.
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

// maxLogWait bounds the wait between two attempts to follow a log. It is shorter than drainTimeout, so that the log of a
// container that ended while the Engine was down is complete once the Engine is back and tells that end.
const maxLogWait = time.Second

// follow keeps one log until it is complete. Whatever fails is tried again from where the written log ends.
func (k *logKeeper) follow(ctx context.Context, f *follower) {
	defer close(f.done)
	log := k.log.WithField("container", f.task.id)
	file, at, err := openLog(f.task.path)
	if err != nil {
		log.WithError(err).Error("cannot keep the container's log")
		return
	}
	defer file.close()
	f.file = file
	close(f.opened)
	failing := false // so that an outage is told once, not at each attempt
	// The first time at once: a stream that ends cleanly means that the container has ended, and then one more reading
	// completes the log.
	for wait := time.Duration(0); ; wait = min(wait*2+50*time.Millisecond, maxLogWait) {
		began := time.Now()
		complete, err := k.copyLog(ctx, f, at)
		if complete || ctx.Err() != nil || isNotFound(err) {
			return
		}
		if err != nil && !failing {
			log.WithError(err).Warn("cannot copy the Engine's log, trying again")
		}
		failing = err != nil
		if time.Since(began) > time.Minute {
			wait = 0
		}
		if pause(ctx, wait) != nil {
			return
		}
		if at, err = file.position(); err != nil {
			log.WithError(err).Error("cannot keep the container's log")
			return
		}
	}
}

// copyLog copies the Engine's log from a position on. It is complete if it was read to its end after the container had
// ended already.
func (k *logKeeper) copyLog(ctx context.Context, f *follower, at position) (complete bool, err error) {
	c, err := k.docker.ContainerInspect(ctx, f.task.id)
	if err != nil {
		return false, err
	}
	options := container.LogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: c.State.Running}
	if !at.since.IsZero() {
		options.Since = fmt.Sprintf("%d.%09d", at.since.Unix(), at.since.Nanosecond())
	}
	stream, err := k.docker.ContainerLogs(ctx, f.task.id, options)
	if err != nil {
		return false, err
	}
	defer stream.Close()
	err = copyEntries(&entryReader{r: bufio.NewReaderSize(stream, 64<<10), tty: f.task.tty}, f.file.write, at.skip)
	return err == nil && !c.State.Running, err
}

// copyEntries writes all entries but the first skip ones, in batches of what is at hand.
func copyEntries(entries *entryReader, write func([]byte) error, skip int) error {
	var batch []byte
	for {
		e, err := entries.next()
		if err == nil && skip > 0 {
			skip--
			continue
		}
		if err == nil {
			batch = e.appendLine(batch)
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

// pause waits, or returns ctx's error when it ends first.
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
