package cri

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/k8sm/k8sm/api/podtrace"
)

// AnnotationSeen has the time at which the kubelet got a pod, which only the kubelet knows. It gives it to the sandbox.
const AnnotationSeen = "kubernetes.io/config.seen"

const (
	// maxAhead bounds the sandboxes that are made ahead at the same time: when many pods come at once, the Engine never waits.
	maxAhead = 4
	// maxMisses is after how many sandboxes in a row that the kubelet wanted in another way none is made ahead any more.
	maxMisses = 3
	// aheadPatience bounds the wait for the kubelet to accept a pod.
	aheadPatience = 30 * time.Second
	// dismissTimeout bounds the wait for what the Engine is doing for a sandbox that is not needed any more.
	dismissTimeout = 10 * time.Second
)

// ahead has the sandboxes that the kubelet has not asked for yet. It waits for a pod's volumes first, for 300 ms or more, in which
// nobody else needs the Engine.
type ahead struct {
	mu      sync.Mutex // guards the fields below
	pods    map[string]*early
	misses  int // in a row
	stopped bool
}

// early is a sandbox that is made before the kubelet asks for it. The kubelet sees it in no list.
type early struct {
	config *runtimeapi.PodSandboxConfig
	show   func()             // lets lists have it
	asked  chan struct{}      // closed when the kubelet asks
	cancel context.CancelFunc // ends the wait for the kubelet
	done   chan struct{}      // closed when the fields below are set
	id     string             // of its container, also with an error; "" if there is none
	err    error
}

// begin notes a sandbox, unless it is there already or none shall be made now.
func (a *ahead) begin(name string, e *early) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	making := 0
	for _, other := range a.pods {
		select {
		case <-other.done:
		default:
			making++
		}
	}
	if a.stopped || a.misses >= maxMisses || making >= maxAhead || a.pods[name] != nil {
		return false
	}
	a.pods[name] = e
	return true
}

// take gives a sandbox to the caller, who must use or discard it.
func (a *ahead) take(name string) *early {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.pods[name]
	delete(a.pods, name)
	return e
}

// takeIf does that with all sandboxes that are meant, by their names.
func (a *ahead) takeIf(meant func(*early) bool) map[string]*early {
	a.mu.Lock()
	defer a.mu.Unlock()
	taken := map[string]*early{}
	for name, e := range a.pods {
		if meant(e) {
			taken[name] = e
			delete(a.pods, name)
		}
	}
	return taken
}

// put takes a sandbox back.
func (a *ahead) put(name string, e *early) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pods[name] = e
}

// note counts a sandbox that the kubelet took or did not want, and reports whether no more will be made.
func (a *ahead) note(wanted bool) (given bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if wanted {
		a.misses = 0
		return false
	}
	a.misses++
	return a.misses == maxMisses
}

// Prepare makes the sandbox of a pod that the kubelet is about to ask for, and returns when it runs. RunPodSandbox then takes it, if it is
// asked for just this one. Else it is discarded, and made anew; so the caller may be wrong. A pod that the kubelet may never ask for must
// be dismissed. The sandbox gets its network only when the kubelet asks: until then nobody knows of it.
func (s *Server) Prepare(ctx context.Context, config *runtimeapi.PodSandboxConfig) error {
	ctx, cancel := context.WithTimeout(ctx, aheadPatience)
	defer cancel()
	name := sandboxName(config.GetMetadata())
	e := &early{config: config, asked: make(chan struct{}), cancel: cancel, done: make(chan struct{}), show: s.view.hide(name)}
	if !s.ahead.begin(name, e) {
		e.show()
		return nil
	}
	uid := types.UID(config.GetMetadata().GetUid())
	s.cfg.Traces.Open(tracedPod(config))
	end := s.cfg.Traces.Begin(uid, podtrace.Runtime, podtrace.Ahead)
	e.id, e.err = s.runAhead(ctx, name, e)
	end(e.err)
	close(e.done)
	if e.err == nil {
		return nil
	}
	mine := s.ahead.takeIf(func(other *early) bool { return other == e })
	if len(mine) == 0 {
		return nil // whoever took it discards it
	}
	return errors.Join(fmt.Errorf("cannot make sandbox %s ahead: %w", name, e.err), s.discardEarly(ctx, e))
}

// runAhead creates the container, and starts it as soon as the kubelet has accepted the pod. It does not give up in the middle of a call:
// the Engine would go on alone.
func (s *Server) runAhead(ctx context.Context, name string, e *early) (id string, err error) {
	plan := s.planSandbox(e.config, "")
	c, hc, err := plan.translate()
	if err != nil {
		return "", err
	}
	calls, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.CallTimeout)
	defer cancel()
	if id, err = s.createNew(calls, name, c, hc); err != nil {
		return "", err // what has the name already is not ours to remove
	}
	if err := e.awaitKubelet(ctx, s.host.cgroupDir(e.config.GetLinux().GetCgroupParent())); err != nil {
		return id, err
	}
	return id, s.start(calls, id, c.Labels)
}

// awaitKubelet waits until the pod has its cgroup: then the kubelet has accepted the pod. Were the Engine first, the kubelet would not set
// the pod's limits.
func (e *early) awaitKubelet(ctx context.Context, cgroup string) error {
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for !exists(cgroup) {
		select {
		case <-look.C:
		case <-e.asked:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("the kubelet has not accepted the pod: %w", ctx.Err())
		}
	}
	return nil
}

// cgroupDir is the directory of a cgroup that the kubelet makes, in the hierarchy of memory where there are several.
func (h host) cgroupDir(cgroup string) string {
	if h.cgroup2 {
		return filepath.Join(cgroupRoot, cgroup)
	}
	return filepath.Join(cgroupRoot, "memory", cgroup)
}

// takeAhead returns the id of the sandbox that the plan describes, if it was made ahead. It discards another one that has the name.
func (s *Server) takeAhead(ctx context.Context, name string, plan sandboxPlan) (id string, err error) {
	e := s.ahead.take(name)
	if e == nil {
		return "", nil
	}
	e.ask()
	select {
	case <-e.done:
	case <-ctx.Done():
		s.ahead.put(name, e)
		return "", ctx.Err()
	}
	if e.err == nil {
		fits := s.planSandbox(e.config, "").makes(plan)
		if s.ahead.note(fits) {
			s.log.Warn("the kubelet wants sandboxes in another way than they are made ahead; none is made ahead any more")
		}
		if fits {
			e.show()
			return e.id, nil
		}
	}
	return "", s.discardEarly(ctx, e)
}

// ask tells that the kubelet has asked for the sandbox. Only who has taken it may call it.
func (e *early) ask() {
	select {
	case <-e.asked: // before, and gave up
	default:
		close(e.asked)
	}
}

// makes reports whether a plan makes the same container as another one, but for the time at which the kubelet saw the pod.
func (p sandboxPlan) makes(other sandboxPlan) bool {
	if seen, ok := other.config.GetAnnotations()[AnnotationSeen]; ok && p.config.GetAnnotations() != nil {
		p.config.Annotations[AnnotationSeen] = seen
	}
	c, hc, err := p.translate()
	otherC, otherHC, otherErr := other.translate()
	return err == nil && otherErr == nil && reflect.DeepEqual(c, otherC) && reflect.DeepEqual(hc, otherHC)
}

// Dismiss removes the sandbox that was made ahead for a pod, unless the kubelet has asked for it.
func (s *Server) Dismiss(ctx context.Context, pod types.UID) error {
	return s.dismiss(ctx, func(e *early) bool { return types.UID(e.config.GetMetadata().GetUid()) == pod })
}

// dismissAll does that for all pods, and lets no more be made.
func (s *Server) dismissAll(ctx context.Context) {
	s.ahead.mu.Lock()
	s.ahead.stopped = true
	s.ahead.mu.Unlock()
	if err := s.dismiss(ctx, func(*early) bool { return true }); err != nil {
		s.log.WithError(err).Warn("leaving sandboxes without a pod to the kubelet")
	}
}

func (s *Server) dismiss(ctx context.Context, meant func(*early) bool) (problems error) {
	ctx, cancel := context.WithTimeout(ctx, dismissTimeout)
	defer cancel()
	for name, e := range s.ahead.takeIf(meant) {
		e.cancel()
		select {
		case <-e.done:
			problems = errors.Join(problems, s.discardEarly(ctx, e))
		case <-ctx.Done():
			s.ahead.put(name, e)
			problems = errors.Join(problems, fmt.Errorf("cannot remove sandbox %s, which the Engine is still making: %w", name, ctx.Err()))
		}
	}
	return problems
}

// discardEarly removes a sandbox whose making has ended.
func (s *Server) discardEarly(ctx context.Context, e *early) error {
	defer e.show()
	if e.id == "" {
		return nil
	}
	if err := s.discard(ctx, e.id); err != nil && !isNotFound(err) {
		return fmt.Errorf("cannot remove a sandbox that was made ahead: %w", err)
	}
	return nil
}
