// Package places remembers which pods are or were on which node, as long as the log store keeps their lines: a pod may be gone when its
// node sends what it wrote. It follows the cluster's pods, and keeps a journal, so that it misses none when the store was away for a while.
//
// Start reading at Places.Place, then Places.Run.
package places

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/contrib/logs/receive"
	"github.com/k8sm/k8sm/minion/supervise"
)

const (
	// settle is how long a pod may be unknown before that says something.
	settle = 15 * time.Second
	// askTimeout bounds a question to the API server, and askAgain is when it is asked again for the same pod.
	askTimeout = 5 * time.Second
	askAgain   = 3 * time.Second
	// flushEvery is how often the journal is written.
	flushEvery = time.Second
	// page is how many pods are listed at a time.
	page = 500
	// retry is the pause after a failed list or watch.
	retry = time.Second
	// maxUnknown bounds the unknown pods that are remembered.
	maxUnknown = 10_000
)

// pod is what is remembered of a pod.
type pod struct {
	UID       string            `json:"uid"`
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Node      string            `json:"node,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Owner     string            `json:"owner,omitempty"`
	// Mirrored is the UID of the static pod that this one is the mirror of: minions know only that
	// (https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/).
	Mirrored string `json:"mirrored,omitempty"`
	// Gone is when the pod was deleted, in seconds since 1970; 0 if it is there.
	Gone int64 `json:"gone,omitempty"`
}

func (p *pod) equal(other *pod) bool {
	return p.UID == other.UID && p.Namespace == other.Namespace && p.Name == other.Name && p.Node == other.Node && p.Owner == other.Owner &&
		p.Gone == other.Gone && p.Mirrored == other.Mirrored && maps.Equal(p.Labels, other.Labels)
}

// Places knows where pods are and were. Its methods may be used concurrently.
type Places struct {
	kube      kubernetes.Interface // its watches must have no timeout
	journal   *journal
	retention time.Duration

	mu     sync.Mutex      // guards all below
	pods   map[string]*pod // by their UIDs
	static map[static]*pod // mirrors of static pods
	// blind is until when pods that nobody knows may have been on a node: nobody looked when they were there.
	blind time.Time
	// following is since when changes arrive; zero if they do not.
	following time.Time
	unknown   map[string]*question
}

// static is a static pod, as its node knows it, or with no node, as others may say that they know it. Whoever creates a pod may write into it
// which UID it is the mirror of. So that counts for a pod of this name on this node only, and never in place of the pod that has the UID.
type static struct{ node, namespace, name, uid string }

// question is about a pod that is not known.
type question struct{ first, asked time.Time }

// Open reads the journal, which it makes if there is none.
func Open(kube kubernetes.Interface, journal string, retention time.Duration) (*Places, error) {
	p := &Places{kube: kube, retention: retention, pods: map[string]*pod{}, static: map[static]*pod{}, unknown: map[string]*question{}}
	j, err := openJournal(journal, p, time.Now())
	if err != nil {
		return nil, err
	}
	p.journal = j
	return p, nil
}

// Place implements receive.Places.
func (p *Places) Place(ctx context.Context, node, namespace, name, uid string) receive.Place {
	of := static{node, namespace, name, uid}
	found := p.find(of)
	if found == nil || found.Node == "" {
		if !p.ask(ctx, namespace, name, uid) {
			return receive.Place{Verdict: receive.Deferred}
		}
		found = p.find(of)
	}
	switch {
	case found == nil:
		return p.judgeUnknown(node, namespace, name, uid)
	case found.Namespace != namespace || found.Name != name:
		return refuse("pod %s has the UID %s, and not pod %s/%s", found.Namespace+"/"+found.Name, uid, namespace, name)
	case found.Node == "":
		return receive.Place{Verdict: receive.Deferred}
	case found.Node != node:
		return refuse("pod %s/%s is on node %s", namespace, name, found.Node)
	}
	return receive.Place{Labels: found.Labels, Owner: found.Owner}
}

func refuse(format string, values ...any) receive.Place {
	return receive.Place{Verdict: receive.Refused, Why: fmt.Sprintf(format, values...)}
}

// find returns what is remembered of a pod. It does not change any more.
func (p *Places) find(of static) *pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := p.pods[of.uid]
	if found == nil {
		found = p.static[of]
	}
	if found == nil {
		of.node = ""
		found = p.static[of]
	}
	return found
}

// ask asks the API server for a pod, unless it was asked just now. It returns false if there is no answer.
func (p *Places) ask(ctx context.Context, namespace, name, uid string) bool {
	now := time.Now()
	p.mu.Lock()
	q := p.unknown[uid]
	if q == nil {
		if len(p.unknown) >= maxUnknown {
			clear(p.unknown)
		}
		q = &question{first: now}
		p.unknown[uid] = q
	}
	fresh := now.Sub(q.asked) < askAgain
	q.asked = now
	p.mu.Unlock()
	if fresh {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	there, err := p.kube.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return true
	case err != nil:
		logrus.WithError(err).WithField("pod", namespace+"/"+name).Warn("cannot find out on which node a pod is; its logs wait")
		return false
	}
	p.see(there, 0)
	return true
}

// judgeUnknown decides about a pod that neither the journal nor the API server knows.
func (p *Places) judgeUnknown(node, namespace, name, uid string) receive.Place {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.unknown[uid]
	switch {
	case q == nil || now.Sub(q.first) < settle, p.following.IsZero() || now.Sub(p.following) < settle:
		return receive.Place{Verdict: receive.Deferred}
	case now.Before(p.blind):
		return receive.Place{Unchecked: true}
	}
	return refuse("there was no pod %s/%s with the UID %s on node %s", namespace, name, uid, node)
}

// see remembers a pod. Gone is when it was deleted.
func (p *Places) see(seen *corev1.Pod, gone int64) {
	fresh := &pod{
		UID: string(seen.UID), Namespace: seen.Namespace, Name: seen.Name, Node: seen.Spec.NodeName, Labels: seen.Labels, Gone: gone,
		Mirrored: seen.Annotations[corev1.MirrorPodAnnotationKey],
	}
	if owner := metav1.GetControllerOf(seen); owner != nil {
		fresh.Owner = owner.Kind + "/" + owner.Name
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.pods[fresh.UID]
	if old != nil && (old.equal(fresh) || old.Gone > 0 && gone == 0) { // a late answer
		return
	}
	p.know(fresh)
	delete(p.unknown, fresh.UID)
	delete(p.unknown, fresh.Mirrored)
	p.journal.add(record{Pod: fresh})
}

// know keeps a pod. p.mu is locked.
func (p *Places) know(known *pod) {
	p.pods[known.UID] = known
	if known.Mirrored != "" {
		p.static[static{known.Node, known.Namespace, known.Name, known.Mirrored}] = known
		p.static[static{"", known.Namespace, known.Name, known.Mirrored}] = known
	}
}

// Run follows the cluster's pods until ctx ends.
func (p *Places) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for supervise.Sleep(ctx, flushEvery) == nil {
			p.write()
		}
		p.write()
	}()
	failing := false
	for ctx.Err() == nil {
		err := p.follow(ctx)
		p.setFollowing(time.Time{})
		if err != nil && ctx.Err() == nil && !failing {
			logrus.WithError(err).Warn("cannot follow the cluster's pods; trying again")
		}
		failing = err != nil
		_ = supervise.Sleep(ctx, retry) // or ctx has ended
	}
	<-done
	return p.journal.close()
}

// Ready returns an error while it is not known which pods the cluster has.
func (p *Places) Ready() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.following.IsZero() {
		return errors.New("the cluster's pods are not followed: no API server answers")
	}
	return nil
}

func (p *Places) setFollowing(since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.following = since
}

// write writes the journal, and logs if it cannot.
func (p *Places) write() {
	if err := p.journal.write(p, time.Now()); err != nil {
		logrus.WithError(err).Error("cannot remember where pods were; trying again")
	}
}

// follow follows from where the journal ends. If the API server does not know that any more, it begins with all pods.
func (p *Places) follow(ctx context.Context) error {
	version := p.journal.version()
	if version == "" {
		return p.list(ctx)
	}
	changes, err := p.kube.CoreV1().Pods(metav1.NamespaceAll).Watch(ctx, metav1.ListOptions{ResourceVersion: version, AllowWatchBookmarks: true})
	switch {
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
		return p.list(ctx)
	case err != nil:
		return fmt.Errorf("cannot watch pods: %w", err)
	}
	defer changes.Stop()
	p.setFollowing(time.Now())
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, more := <-changes.ResultChan():
			if !more {
				return nil // the API server ends watches now and then
			}
			if again, err := p.take(e); again || err != nil {
				if again {
					return p.list(ctx)
				}
				return err
			}
		}
	}
}

// take takes a change. It returns true if the API server cannot go on telling them.
func (p *Places) take(e watch.Event) (again bool, err error) {
	if e.Type == watch.Error {
		err := apierrors.FromObject(e.Object)
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return true, nil
		}
		return false, fmt.Errorf("cannot go on watching pods: %w", err)
	}
	changed, ok := e.Object.(*corev1.Pod)
	if !ok {
		return false, errors.New("the API server sends something else than pods")
	}
	switch e.Type {
	case watch.Added, watch.Modified:
		p.see(changed, 0)
	case watch.Deleted:
		p.see(changed, time.Now().Unix())
	}
	p.journal.reached(changed.ResourceVersion)
	return false, nil
}

// list takes all pods. Pods that lived only while nobody followed stay unknown.
func (p *Places) list(ctx context.Context) error {
	there := map[string]bool{}
	options := metav1.ListOptions{Limit: page}
	for {
		pods, err := p.kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, options)
		if err != nil {
			return fmt.Errorf("cannot list pods: %w", err)
		}
		for i := range pods.Items {
			p.see(&pods.Items[i], 0)
			there[string(pods.Items[i].UID)] = true
		}
		if options.Continue = pods.Continue; options.Continue == "" {
			p.missed(there)
			p.journal.reached(pods.ResourceVersion)
			return nil
		}
	}
}

// missed takes that pods other than these are gone, and that there may have been more.
func (p *Places) missed(there map[string]bool) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pods) > 0 { // else the cluster is new
		p.blind = now.Add(logs.ForgetAfter)
		p.journal.add(record{Blind: p.blind.Unix()})
	}
	for _, known := range maps.Clone(p.pods) {
		if !there[known.UID] && known.Gone == 0 {
			gone := *known
			gone.Gone = now.Unix()
			p.know(&gone)
			p.journal.add(record{Pod: &gone})
		}
	}
}
