package commit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/docker/docker/client"
	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api/backoff"
	"github.com/k8sm/k8sm/api/commit"
)

const (
	// patience is how long a Commit is tried again after failures that may pass, such as a registry that does not answer.
	patience = 10 * time.Minute
	// tidyAgain is the pause before what could not be removed is removed again.
	tidyAgain = 5 * time.Second
	// callTimeout bounds one short call to the API server or Docker Engine.
	callTimeout = 10 * time.Second
)

// Config configures the commits of a node. All fields are required, but KeepFree.
type Config struct {
	// Cluster and Node are the labels of containers that may be committed.
	Cluster, Node string
	// Dir is the directory for images on their way to the registry. It belongs to this package alone.
	Dir string
	// KeepFree is how much of a disk must stay free, as a quantity or a percentage; empty for nothing.
	KeepFree string
	// Kubernetes and Objects have the node's identity.
	Kubernetes kubernetes.Interface
	Objects    dynamic.Interface
	Docker     *client.Client
	Log        logrus.FieldLogger

	engineOnly bool // let Docker Engine make all images
}

// controller owns the state of the node's commits in the goroutine of Run.
type controller struct {
	Config
	informer cache.SharedIndexInformer
	tries    map[types.UID]*try
	running  *attempt
	untidy   bool // the last time, what attempts left could not be removed
}

// try is what is known of a Commit that failed and is tried again.
type try struct {
	first  time.Time
	next   time.Time
	pauses backoff.Pauses
	ended  bool // the informer may tell it later than it was written
}

// Run carries out the node's Commits until ctx ends. What an earlier process began is done again.
func Run(ctx context.Context, cfg Config) error {
	if err := awaitCommits(ctx, cfg); err != nil {
		return err
	}
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(cfg.Objects, 0, metav1.NamespaceAll, func(options *metav1.ListOptions) {
		options.FieldSelector = fields.OneTermEqualSelector(commit.FieldNodeName, cfg.Node).String()
	})
	c := &controller{Config: cfg, informer: factory.ForResource(commit.Resource).Informer(), tries: map[types.UID]*try{}}
	changed := make(chan struct{}, 1) // coalesces bursts of changes
	change := func(any) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	_, err := c.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: change, UpdateFunc: func(_, o any) { change(o) }, DeleteFunc: change})
	if err != nil {
		return fmt.Errorf("cannot watch the node's Commits: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), c.informer.HasSynced) {
		return ctx.Err()
	}
	return c.loop(ctx, changed)
}

// awaitCommits waits until the control plane has the API: one of an older version has not, and an informer would log each attempt.
func awaitCommits(ctx context.Context, cfg Config) error {
	pauses := backoff.Between(time.Second, time.Minute)
	for {
		_, err := cfg.Objects.Resource(commit.Resource).List(ctx, metav1.ListOptions{
			Limit: 1, FieldSelector: fields.OneTermEqualSelector(commit.FieldNodeName, cfg.Node).String()})
		if err == nil {
			return nil
		}
		cfg.Log.WithError(err).Debug("cannot list the node's Commits yet")
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pauses.Step()):
		}
	}
}

// loop starts, retries and ends attempts, one at a time.
func (c *controller) loop(ctx context.Context, changed <-chan struct{}) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		open := c.open()
		if c.running != nil && !c.exists(c.running.commit.UID) {
			c.running.stop()
		}
		if c.running == nil && ctx.Err() == nil {
			timer.Reset(c.startNext(ctx, open))
		}
		var ended <-chan error
		if c.running != nil {
			ended = c.running.ended
		}
		select {
		case <-ctx.Done():
			if c.running != nil {
				<-c.running.ended
			}
			return ctx.Err()
		case <-changed:
		case <-timer.C:
		case err := <-ended:
			c.settle(ctx, err)
		}
	}
}

// exists reports whether a Commit has not been deleted.
func (c *controller) exists(uid types.UID) bool {
	return slices.ContainsFunc(c.informer.GetStore().List(), func(object any) bool { return object.(*unstructured.Unstructured).GetUID() == uid })
}

// open returns the Commits that have not ended, the oldest first.
func (c *controller) open() (open []commit.Commit) {
	for _, object := range c.informer.GetStore().List() {
		one, err := commit.Read(object.(*unstructured.Unstructured))
		if err != nil {
			c.Log.WithError(err).Warn("skipping a Commit")
			continue
		}
		if !one.Status.Phase.Ended() {
			open = append(open, one)
		}
	}
	slices.SortFunc(open, func(a, b commit.Commit) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID))
	})
	return open
}

// startNext starts the next attempt that is due, after removing what those before it left. It returns how long to wait for another one.
func (c *controller) startNext(ctx context.Context, open []commit.Commit) time.Duration {
	if err := c.tidy(ctx); err != nil && ctx.Err() == nil {
		if !c.untidy {
			c.Log.WithError(err).Warn("cannot remove what is left of commits: trying again")
		}
		c.untidy = true
		return tidyAgain
	}
	c.untidy = false
	for uid := range c.tries {
		if !slices.ContainsFunc(open, func(o commit.Commit) bool { return o.UID == uid }) {
			delete(c.tries, uid)
		}
	}
	now, wait := time.Now(), time.Hour
	for _, one := range open {
		t := c.tries[one.UID]
		if t == nil {
			t = &try{first: now, pauses: backoff.Between(2*time.Second, 30*time.Second)}
			c.tries[one.UID] = t
		}
		if t.ended {
			continue
		}
		if due := t.next.Sub(now); due > 0 {
			wait = min(wait, due)
			continue
		}
		c.running = c.begin(ctx, one)
		break
	}
	return wait
}

// begin starts an attempt.
func (c *controller) begin(ctx context.Context, one commit.Commit) *attempt {
	ctx, stop := context.WithCancel(ctx)
	a := &attempt{
		Config: c.Config, commit: one, stop: stop, ended: make(chan error, 1),
		log: c.Log.WithFields(logrus.Fields{"commit": one.Namespace + "/" + one.Name, "pod": one.Namespace + "/" + one.Spec.PodName}),
	}
	go func() {
		defer stop()
		a.ended <- a.run(ctx)
	}()
	return a
}

// settle notes how an attempt ended. A failure that may pass is tried again.
func (c *controller) settle(ctx context.Context, err error) {
	a := c.running
	c.running = nil
	var final finalError
	t, ended := c.tries[a.commit.UID], false
	switch {
	case ctx.Err() != nil || errors.Is(err, context.Canceled):
		return // the next minion begins anew, or the Commit was deleted
	case err == nil:
		ended = true
	case errors.As(err, &final) || t == nil || time.Since(t.first) > patience:
		a.log.WithError(err).Warn("cannot commit a container")
		err = a.report(ctx, commit.Status{Phase: commit.Failed, Message: err.Error()})
		ended = err == nil
	default:
		a.log.WithError(err).Warn("cannot commit a container yet: trying again")
		t.next = time.Now().Add(t.pauses.Step())
		err = a.report(ctx, commit.Status{Phase: commit.Running, Message: "trying again: " + err.Error()})
	}
	if err != nil {
		a.log.WithError(err).Warn("cannot write the status of a Commit: trying again")
		if t != nil {
			t.next = time.Now().Add(t.pauses.Step())
		}
	}
	if t != nil {
		t.ended = ended
	}
}

// finalError is a failure that does not pass by itself.
type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

func final(format string, args ...any) error { return finalError{fmt.Errorf(format, args...)} }

// report writes the Commit's status, and an event on the pod if the Commit has ended. A Commit that is gone is no error.
func (a *attempt) report(ctx context.Context, status commit.Status) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if len(status.Message) > 1024 {
		status.Message = status.Message[:1024]
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": a.commit.UID}, "status": map[string]any{
		"phase": status.Phase, "digest": status.Digest, "message": status.Message,
	}})
	if err != nil {
		return err
	}
	_, err = a.Objects.Resource(commit.Resource).Namespace(a.commit.Namespace).
		Patch(ctx, a.commit.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot write the status of Commit %s/%s: %w", a.commit.Namespace, a.commit.Name, err)
	}
	if status.Phase.Ended() {
		a.tell(ctx, status)
	}
	return nil
}
