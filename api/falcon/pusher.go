package falcon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/backoff"
)

const (
	// maxBatch is how many elements one call sends.
	maxBatch = 200
	// maxQueue is how many elements wait: several minutes of a full node, in less than 10 MB. Beyond it, the oldest are dropped.
	maxQueue = 20_000

	// maxShown bounds what a log line shows, in bytes.
	maxShown = 300

	// Pauses after a failure.
	minPause = time.Second
	maxPause = 30 * time.Second
)

// Config configures a Pusher.
type Config struct {
	Target Target
	// Endpoint is that of all elements: a node, or the cluster.
	Endpoint string
	// Step is the time between two values of a series; less than MinStep becomes MinStep.
	Step time.Duration
	// Dial connects to the target; nil means net.Dialer's DialContext.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Log receives the log; nil means logrus' standard logger.
	Log logrus.FieldLogger
}

// Pusher sends elements in the background. Its methods may be called concurrently.
type Pusher struct {
	cfg      Config
	receiver receiver      // of Run
	arrived  chan struct{} // tells Run of elements; size 1

	mu      sync.Mutex // guards the rest
	queue   []Element  // oldest first
	outage  outage
	invalid int // elements that were left out or dropped for it
}

// outage is the time in which elements fail to arrive; zero if they arrive.
type outage struct {
	since   time.Time
	dropped int // elements
}

// New returns a Pusher. Nothing is sent until Run.
func New(cfg Config) *Pusher {
	if cfg.Log == nil {
		cfg.Log = logrus.StandardLogger()
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	cfg.Endpoint, cfg.Step = clean(cfg.Endpoint), max(cfg.Step, MinStep*time.Second)
	return &Pusher{cfg: cfg, receiver: cfg.Target.receiver(cfg.Dial), arrived: make(chan struct{}, 1)}
}

// Step returns the time between two values of a series, by which Push should be called.
func (p *Pusher) Step() time.Duration { return p.cfg.Step }

// Push queues the elements of one moment, with endpoint, step and timestamp, and returns at once. It leaves out invalid ones.
func (p *Pusher) Push(at time.Time, elements []Element) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range elements {
		e.Endpoint, e.Step, e.Timestamp = p.cfg.Endpoint, int64(p.cfg.Step/time.Second), at.Unix()
		if err := e.Validate(); err != nil {
			p.countInvalid(1, fmt.Sprintf("a metric is not sent to open-falcon: %s: %q", err, e.Metric))
			continue
		}
		p.queue = append(p.queue, e)
	}
	if excess := len(p.queue) - maxQueue; excess > 0 {
		p.failed(errors.New("the elements come faster than it takes them"))
		p.outage.dropped += excess
		p.queue = append([]Element(nil), p.queue[excess:]...)
	}
	select {
	case p.arrived <- struct{}{}:
	default:
	}
}

// Run sends what Push queues until ctx ends, and returns ctx's error. It may be called again after that.
func (p *Pusher) Run(ctx context.Context) error {
	defer p.end()
	for {
		batch := p.take()
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-p.arrived:
			}
			continue
		}
		if err := p.deliver(ctx, batch); err != nil {
			return err
		}
	}
}

// take takes the oldest elements from the queue.
func (p *Pusher) take() []Element {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(p.queue), maxBatch)
	batch := p.queue[:n:n]
	p.queue = p.queue[n:]
	return batch
}

// deliver sends a batch until the receiver has taken or refused it. Its only error is that of ctx.
func (p *Pusher) deliver(ctx context.Context, batch []Element) error {
	for pauses := backoff.Between(minPause, maxPause); ; {
		invalid, err := p.receiver.send(ctx, batch)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.note(batch, invalid, err)
		if err == nil || errors.Is(err, errRefused) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pauses.Step()):
		}
	}
}

// note notes how a batch was sent.
func (p *Pusher) note(batch []Element, invalid int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.failed(err)
		if errors.Is(err, errRefused) {
			p.outage.dropped += len(batch)
		}
		return
	}
	if invalid > 0 {
		invalid = min(invalid, len(batch))
		p.countInvalid(invalid, fmt.Sprintf("open-falcon counts %d of %d elements as invalid and drops them; the first of all is %q with tags %q",
			invalid, len(batch), batch[0].Metric, batch[0].Tags))
	}
	if p.outage.since.IsZero() || len(p.queue) > 0 {
		return
	}
	p.cfg.Log.Infof("open-falcon at %s takes metrics again after %s: %d elements were dropped", p.cfg.Target,
		time.Since(p.outage.since).Round(time.Second), p.outage.dropped)
	p.outage = outage{}
}

// failed logs the first failure of an outage. It needs mu.
func (p *Pusher) failed(err error) {
	if p.outage.since.IsZero() {
		p.outage.since = time.Now()
		p.cfg.Log.WithField(logrus.ErrorKey, short(err.Error())).Warnf("open-falcon at %s takes no metrics: retrying until it does", p.cfg.Target)
	}
}

// countInvalid counts invalid elements, and logs the first time. It needs mu.
func (p *Pusher) countInvalid(count int, text string) {
	if p.invalid == 0 {
		p.cfg.Log.Warn(short(text) + "; the next ones are only counted")
	}
	p.invalid += count
}

// end closes the connections and logs how many elements were invalid, if any were.
func (p *Pusher) end() {
	p.receiver.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.invalid > 0 {
		p.cfg.Log.Warnf("%d elements for open-falcon were invalid in all", p.invalid)
	}
}

// short returns the beginning of a text of which a stranger may have sent a part.
func short(text string) string {
	if len(text) > maxShown {
		return text[:maxShown] + "…"
	}
	return text
}
