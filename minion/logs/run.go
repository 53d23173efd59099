package logs

import (
	"cmp"
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/logs"
)

const (
	// scanInterval is the time between two readings of all directories, for what the kernel did not tell.
	scanInterval = 30 * time.Second
	// pollInterval is the same if the kernel tells nothing. It is longer if it takes long: up to maxPoll.
	pollInterval = 500 * time.Millisecond
	maxPoll      = 5 * time.Second
	// housekeeping is the time between two looks at what is kept.
	housekeeping = time.Second
	// settleEvents is the time in which events are collected.
	settleEvents = 50 * time.Millisecond
)

// Config says what to ship, and where to.
type Config struct {
	// Logs is the directory with the kubelet's directories of pods' logs.
	Logs string
	// Components is a directory with a directory for each component of the node, as Component writes it; "" for none.
	Components string
	// Dir is a directory of the package's own, on the same file system as Logs and Components.
	Dir string
	// Store is where logs go.
	Store Store
	// Multiline returns the value of the pod's annotation api.AnnotationLogMultiline, "" if it has none, and whether the pod is known. It
	// must not block. It may be nil.
	Multiline func(namespace, pod, uid string) (string, bool)
	// SpoolBytes bounds what is kept of deleted files until it is shipped. SpoolFiles bounds their number. Zero means the defaults.
	SpoolBytes int64
	SpoolFiles int
	// MinFreeBytes is how much of the disk stays free: what is kept of deleted files is dropped for that. Zero
	// means the default.
	MinFreeBytes int64
	// Dropped is called whenever lines were dropped, with the reason for people, and with how many they are as far as they could be counted.
	// It must not block. It may be nil.
	Dropped func(why string, lines, bytes int64)
	Metrics *Metrics
	Log     logrus.FieldLogger
}

// Defaults of a Config.
const (
	DefaultSpoolBytes   = 1 << 30
	DefaultSpoolFiles   = 10_000
	DefaultMinFreeBytes = 256 << 20
)

// shipping is all that is known about logs and about what the store has of them. One goroutine owns it. It reads files and waits for
// nothing else.
type shipping struct {
	Config
	courier
	spool *spool
	log   logrus.FieldLogger
	watch func(dir string)
	logs  tree
	first int64 // the number of a chain's first file

	// fresh are chains that may have something new. stale are chains that have had a turn and want more.
	fresh, stale []*chain
	waiting      []*chain  // with a due time
	since        time.Time // when there was something for the next batch
	writer       *logs.Writer
	buffer       []byte
	groups       [2]group

	dirty    bool // positions have changed since they were saved
	diskFull bool // so that they cannot be saved
	saveAt   time.Time
	trash    []spooled // to be removed when positions are saved
	freeing  int64     // bytes that are free then
	rescans  map[directory]bool
	unsaved  bool // positions cannot be saved
	odd      map[string]bool
	tallies  map[string]tally
	sayAt    time.Time
	keepAt   time.Time // when to look at what is kept
}

// newShipping returns what was known when the last one ended. Files of chains that were not known are numbered from first on.
func newShipping(cfg Config, spool *spool, first int64, now time.Time) (*shipping, error) {
	s := &shipping{
		Config: cfg, spool: spool, log: cfg.Log, watch: func(string) {}, logs: tree{}, first: first, writer: logs.NewWriter(),
		buffer: make([]byte, wideWindow+1), rescans: map[directory]bool{}, odd: map[string]bool{}, tallies: map[string]tally{},
		courier: courier{pauses: pauses},
	}
	return s, s.restore(now)
}

// rescan reads the chain's directory soon.
func (s *shipping) rescan(c *chain) { s.rescans[directory{c.place.pod, c.place.container}] = true }

// look takes that something happened in directories.
func (s *shipping) look(changed map[directory]bool, now time.Time) error {
	var failed error
	for d, more := range changed {
		switch {
		case d.pod == "":
			failed = errors.Join(failed, s.scan(now))
		case !more:
			s.written(d, now)
		default:
			failed = errors.Join(failed, s.scanOne(d, now))
		}
	}
	return failed
}

// written takes that something was written in a directory.
func (s *shipping) written(d directory, now time.Time) {
	for _, c := range s.logs[d.pod][d.container] {
		if len(c.files) == 0 {
			continue
		}
		if f := c.files[len(c.files)-1]; f.lost == nil && f.linked {
			if info, err := s.spool.stat(c.place, f.number); err == nil {
				s.grown(c, f, info, now)
			}
		}
	}
}

// scanOne reads the directory of a pod or a container.
func (s *shipping) scanOne(d directory, now time.Time) error {
	if _, ok := sourceOf(d.pod); !ok || d.container != "" && !containerDirectory.MatchString(d.container) {
		return nil
	}
	root, err := os.Open(s.Logs)
	if err != nil {
		return err
	}
	defer root.Close()
	if d.container == "" {
		return s.scanPod(root, d.pod, now)
	}
	s.watch(s.path(d.pod))
	pod, err := s.openPod(root, d.pod)
	if isGone(err) {
		s.podGone(d.pod, now)
		return nil
	}
	if err != nil {
		return err
	}
	defer pod.Close()
	return s.scanContainer(pod, d.pod, d.container, now)
}

// keep does what is due, and returns when more is.
func (s *shipping) keep(now time.Time) time.Time {
	due := s.wakeWaiting(now)
	if len(s.rescans) > 0 {
		rescans := s.rescans
		s.rescans = map[directory]bool{}
		if err := s.look(rescans, now); err != nil {
			s.log.WithError(err).Error("cannot read directories of logs; trying again")
		}
	}
	if !now.Before(s.keepAt) {
		s.giveUpMissing(now)
		s.enforce(now)
		s.forgetLosses()
		s.finish(now)
		s.sayDropped(now)
		s.Metrics.lag.Set(s.lag(now).Seconds())
		s.keepAt = now.Add(housekeeping)
	}
	if s.dirty && !now.Before(s.saveAt) {
		err := s.save(now)
		if err != nil && !s.unsaved {
			s.log.WithError(err).Error("cannot save up to where logs were shipped; trying again")
		}
		s.unsaved = err != nil
	}
	return earlier(due, s.keepAt)
}

// wakeWaiting queues chains that are due, and returns when the next one is.
func (s *shipping) wakeWaiting(now time.Time) (due time.Time) {
	waiting := s.waiting[:0]
	for _, c := range s.waiting {
		if !c.due.IsZero() && now.Before(c.due) {
			waiting = append(waiting, c)
			due = earlier(due, c.due)
			continue
		}
		c.isWaiting = false
		if !c.due.IsZero() {
			s.wake(c)
		}
	}
	clear(s.waiting[len(waiting):])
	s.waiting = waiting
	return due
}

// Run ships logs until ctx ends. What is not shipped then is when it runs again. Only one may run with a Dir.
func Run(ctx context.Context, cfg Config) error {
	cfg.SpoolBytes, cfg.SpoolFiles = cmp.Or(cfg.SpoolBytes, DefaultSpoolBytes), cmp.Or(cfg.SpoolFiles, DefaultSpoolFiles)
	cfg.MinFreeBytes = cmp.Or(cfg.MinFreeBytes, DefaultMinFreeBytes)
	spool, err := newSpool(cfg.Dir)
	if err != nil {
		return err
	}
	// If positions were lost, or were of a store that was forgotten, files that come now are behind those that the store has.
	s, err := newShipping(cfg, spool, time.Now().Unix(), time.Now())
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &loop{shipping: s, awake: make(chan struct{}, 1), replies: make(chan reply, 1)}
	if l.watcher, err = newWatcher(cfg, l.awake); err != nil {
		l.poll(err)
	} else {
		group.Go(func() { l.watcher.run(ctx) })
		s.watch = func(dir string) {
			if err := l.watcher.notify.Add(dir); err != nil && !isGone(err) {
				l.poll(err)
			}
		}
	}
	return l.run(ctx, &group)
}

// loop drives a shipping.
type loop struct {
	*shipping
	watcher *watcher
	awake   chan struct{}
	replies chan reply

	sent    *request // under way
	polling bool
	faulty  bool      // the last reading of directories failed
	scanAt  time.Time // when to read all directories
	lookAt  time.Time // when to look at what happened
}

// poll takes that the kernel does not tell all that happens in directories.
func (l *loop) poll(err error) {
	if !l.polling {
		l.polling = true
		l.log.WithError(err).Warn("cannot watch all directories of logs, so reading them again and again: raise fs.inotify.max_user_watches and fs.inotify.max_user_instances")
	}
}

func (l *loop) run(ctx context.Context, group *sync.WaitGroup) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var events <-chan struct{}
		if !time.Now().Before(l.lookAt) {
			events = l.awake
		}
		select {
		case <-ctx.Done():
			return l.end()
		case <-timer.C:
		case <-events:
			l.lookAt = time.Now().Add(settleEvents)
			l.sayFaulty(l.look(l.watcher.take(), time.Now()))
		case a := <-l.replies:
			r := l.sent
			l.sent = nil
			l.answer(r, a, time.Now())
		}
		timer.Reset(max(0, time.Until(l.step(ctx, group))))
	}
}

// step does what is due, and returns when more is.
func (l *loop) step(ctx context.Context, group *sync.WaitGroup) time.Time {
	now := time.Now()
	if !now.Before(l.scanAt) {
		l.sayFaulty(l.scan(now))
		l.scanAt = now.Add(scanInterval)
		if l.polling {
			l.scanAt = now.Add(min(max(pollInterval, 20*time.Since(now)), maxPoll))
		}
	}
	due := earlier(l.keep(now), l.scanAt)
	if now.Before(l.lookAt) {
		due = earlier(due, l.lookAt)
	}
	if l.sent == nil {
		request, at := l.next(now)
		if due = earlier(due, at); request == nil {
			return due
		}
		l.sent = request
		group.Go(func() { l.replies <- request.send(ctx, l.Store) })
	}
	return earlier(due, l.prepare(now))
}

func (l *loop) sayFaulty(err error) {
	if err != nil && !l.faulty {
		l.log.WithError(err).Error("cannot read directories of logs; trying again")
	}
	l.faulty = err != nil
}

// end saves what is known.
func (l *loop) end() error {
	if !l.dirty {
		return nil
	}
	return l.save(time.Now())
}

// send makes the request.
func (r *request) send(ctx context.Context, store Store) (a reply) {
	switch {
	case r.session == "":
		a.session, a.err = store.Open(ctx)
	case r.batch != nil:
		a.receipt, a.err = store.Send(ctx, r.session, r.batch.number, r.batch.body)
	case r.asked != nil:
		a.answers, a.err = store.Held(ctx, r.session, r.questions)
	default:
		a.receipt, a.err = store.Durable(ctx, r.session)
	}
	return a
}
