package minion

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	// droppedDelay is how long numbers add up before the first event about a kind of loss, and droppedInterval before the next one.
	droppedDelay    = 10 * time.Second
	droppedInterval = 5 * time.Minute
	// droppedRetry is the pause after an event that the API server did not take. It is often away together with the store.
	droppedRetry = 15 * time.Second
	// reasonDropped is the reason of these events.
	reasonDropped = "LogsDropped"
)

// loss is what a log store lacks, and why.
type loss struct{ store, why string }

// droppedLogs tells by events on the node which lines of logs were dropped. Its methods may be called concurrently, but Run only once.
type droppedLogs struct {
	node  string
	delay time.Duration // droppedDelay
	log   logrus.FieldLogger

	mu    sync.Mutex // guards all below
	sums  map[loss]*lossSum
	added chan struct{} // coalesces bursts
}

// lossSum is how much was dropped since the last event.
type lossSum struct {
	lines, bytes int64
	notBefore    time.Time // for the next event
}

func (s *lossSum) isTold() bool { return s.lines == 0 && s.bytes == 0 }

func newDroppedLogs(node string, log logrus.FieldLogger) *droppedLogs {
	return &droppedLogs{node: node, delay: droppedDelay, log: log, sums: map[loss]*lossSum{}, added: make(chan struct{}, 1)}
}

// Add takes that lines were dropped. It does not block.
func (d *droppedLogs) Add(store, why string, lines, bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	sum := d.sums[loss{store, why}]
	if sum == nil {
		sum = &lossSum{}
		d.sums[loss{store, why}] = sum
	}
	if delayed := time.Now().Add(d.delay); sum.isTold() && sum.notBefore.Before(delayed) {
		sum.notBefore = delayed
	}
	sum.lines += lines
	sum.bytes += bytes
	select {
	case d.added <- struct{}{}:
	default:
	}
}

// Run creates events until ctx ends. What an event could not tell, a later one does.
func (d *droppedLogs) Run(ctx context.Context, client kubernetes.Interface) error {
	var due <-chan time.Time
	var retryAt time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.added:
		case <-due:
		}
		next := retryAt
		if now := time.Now(); !now.Before(retryAt) {
			var err error
			if next, err = d.tell(ctx, client, now); err != nil {
				d.log.WithError(err).Debug("cannot create an event about logs that were dropped; trying again")
				retryAt = time.Now().Add(droppedRetry)
				next = retryAt
			}
		}
		if due = nil; !next.IsZero() {
			due = time.After(time.Until(next))
		}
	}
}

// tell creates the events that are due, and returns when the next one is; zero if nothing is left to tell.
func (d *droppedLogs) tell(ctx context.Context, client kubernetes.Interface, now time.Time) (next time.Time, err error) {
	for what, sum := range d.untold() {
		if now.Before(sum.notBefore) {
			if next.IsZero() || sum.notBefore.Before(next) {
				next = sum.notBefore
			}
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		_, err = client.CoreV1().Events(metav1.NamespaceDefault).Create(ctx, d.event(what, sum, now), metav1.CreateOptions{})
		cancel()
		if err != nil {
			return next, err
		}
		d.told(what, sum, now.Add(droppedInterval))
		now = now.Add(1) // it is in the event's name
	}
	return next, nil
}

// untold returns what no event has told yet.
func (d *droppedLogs) untold() map[loss]lossSum {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[loss]lossSum{}
	for what, sum := range d.sums {
		if !sum.isTold() {
			all[what] = *sum
		}
	}
	return all
}

// told takes that an event has told a sum. More may have been added since.
func (d *droppedLogs) told(what loss, sum lossSum, notBefore time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	current := d.sums[what]
	current.lines -= sum.lines
	current.bytes -= sum.bytes
	current.notBefore = notBefore
}

// event is on the node, as the kubelet's are: in the default namespace, with the node's name as UID.
func (d *droppedLogs) event(what loss, sum lossSum, now time.Time) *corev1.Event {
	at := metav1.NewTime(now)
	lines := fmt.Sprintf("%d lines", sum.lines)
	if sum.lines == 0 {
		lines = "lines" // nobody could count them
	}
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", d.node, now.UnixNano()), Namespace: metav1.NamespaceDefault},
		InvolvedObject: corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: d.node, UID: types.UID(d.node)},
		Type:           corev1.EventTypeWarning, Reason: reasonDropped,
		Message: fmt.Sprintf("Dropped %s (%d bytes) of containers' logs, which the log store %s will not have: %s", lines, sum.bytes, what.store, what.why),
		Source:  corev1.EventSource{Component: "km-minion", Host: d.node}, FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}
}
