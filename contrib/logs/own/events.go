package own

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/minion/supervise"
)

// page is how many events are listed at a time.
const page = 500

// events writes the cluster's events, each time one is made or changed, as a line of logfmt. A crash may repeat the last ones.
type events struct {
	kube     kubernetes.Interface // its watches must have no timeout
	position string
	to       io.Writer

	// at is up to where events were taken: a resource version, and the latest time of an event, in seconds since 1970.
	at struct {
		Version string `json:"version"`
		Time    int64  `json:"time"`
	}
	saved time.Time
}

func (e *events) run(ctx context.Context) error {
	if err := load(e.position, &e.at); err != nil {
		return err
	}
	failing := false
	for ctx.Err() == nil {
		err := e.follow(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			logrus.WithError(err).Warn("cannot store the cluster's events; trying again")
		}
		failing = err != nil
		_ = supervise.Sleep(ctx, time.Second) // or ctx has ended
	}
	return save(e.position, e.at)
}

// follow follows events from where it ended. If the API server does not know that any more, it begins with those that are there.
func (e *events) follow(ctx context.Context) error {
	if e.at.Version == "" {
		return e.list(ctx)
	}
	changes, err := e.kube.CoreV1().Events(metav1.NamespaceAll).Watch(ctx, metav1.ListOptions{ResourceVersion: e.at.Version, AllowWatchBookmarks: true})
	if err == nil {
		defer changes.Stop()
		err = e.take(ctx, changes)
	}
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return e.list(ctx)
	}
	return err
}

func (e *events) take(ctx context.Context, changes watch.Interface) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case c, more := <-changes.ResultChan():
			switch {
			case !more:
				return nil // the API server ends watches now and then
			case c.Type == watch.Error:
				return apierrors.FromObject(c.Object)
			}
			event, ok := c.Object.(*corev1.Event)
			if !ok {
				return fmt.Errorf("the API server sends something else than events: %T", c.Object)
			}
			if c.Type == watch.Added || c.Type == watch.Modified {
				if err := e.write(event); err != nil {
					return err
				}
			}
			e.at.Version = event.ResourceVersion
			if time.Since(e.saved) > time.Second {
				if err := save(e.position, e.at); err != nil {
					return err
				}
				e.saved = time.Now()
			}
		}
	}
}

// list takes the events that are there and later than the last one.
func (e *events) list(ctx context.Context) error {
	options := metav1.ListOptions{Limit: page}
	var fresh []corev1.Event
	for {
		all, err := e.kube.CoreV1().Events(metav1.NamespaceAll).List(ctx, options)
		if err != nil {
			return fmt.Errorf("cannot list events: %w", err)
		}
		for _, event := range all.Items {
			if timeOf(&event).Unix() > e.at.Time {
				fresh = append(fresh, event)
			}
		}
		if options.Continue = all.Continue; options.Continue == "" {
			e.at.Version = all.ResourceVersion
			break
		}
	}
	slices.SortStableFunc(fresh, func(a, b corev1.Event) int { return timeOf(&a).Compare(timeOf(&b)) })
	for i := range fresh {
		if err := e.write(&fresh[i]); err != nil {
			return err
		}
	}
	return save(e.position, e.at)
}

func (e *events) write(event *corev1.Event) error {
	e.at.Time = max(e.at.Time, timeOf(event).Unix())
	_, err := io.WriteString(e.to, format(event)+"\n")
	return err
}

// timeOf is when an event happened last.
func timeOf(e *corev1.Event) time.Time {
	at := e.CreationTimestamp.Time
	for _, t := range []time.Time{e.FirstTimestamp.Time, e.LastTimestamp.Time, e.EventTime.Time} {
		if t.After(at) {
			at = t
		}
	}
	if e.Series != nil && e.Series.LastObservedTime.After(at) {
		at = e.Series.LastObservedTime.Time
	}
	return at
}

// format returns an event in logfmt, which `| unpack_logfmt` of LogsQL makes fields of.
func format(e *corev1.Event) string {
	count := max(e.Count, 1)
	if e.Series != nil {
		count = max(count, e.Series.Count)
	}
	o := e.InvolvedObject
	var parts []string
	for _, f := range [][2]string{
		{"time", timeOf(e).UTC().Format(time.RFC3339)}, {"type", e.Type}, {"reason", e.Reason}, {"namespace", o.Namespace}, {"kind", o.Kind}, {"name", o.Name},
		{"message", e.Message}, {"count", strconv.Itoa(int(count))}, {"from", cmp.Or(e.ReportingController, e.Source.Component)},
		{"host", cmp.Or(e.Source.Host, e.ReportingInstance)}, {"uid", string(o.UID)},
	} {
		if f[1] != "" {
			parts = append(parts, f[0]+"="+quoted(f[1]))
		}
	}
	return strings.Join(parts, " ")
}

// quoted quotes a value of logfmt if it has to be. It keeps an event on one line.
func quoted(value string) string {
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r == '"' || r == '=' || r == '\\' || r == 0x7f }) {
		return strconv.Quote(value)
	}
	return value
}
