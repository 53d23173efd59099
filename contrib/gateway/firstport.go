package gateway

import (
	"context"
	"maps"
	"time"

	"github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api/v1beta1"
)

const (
	firstPortEvery = 2 * time.Second  // how soon a service is looked after again whose pods are not there yet, at first
	firstPortAgain = 30 * time.Second // how soon the others are: new pods may have another first port
	firstPortCalls = 10 * time.Second // bounds the calls for one service
	podsToAsk      = 20               // of a service, at most
)

// followFirstPorts makes services without a containerPort send to the first port of their pods, which v1 has no word for. It blocks
// until ctx ends, and then returns nil.
func followFirstPorts(ctx context.Context, core corev1.CoreV1Interface) error {
	store, run := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(core.RESTClient(), "services", metav1.NamespaceAll, fields.Everything()),
		ObjectType:    &v1.Service{},
		Handler:       cache.ResourceEventHandlerFuncs{},
		Transform:     onlyIfWanted,
	})
	done := make(chan struct{})
	go func() { defer close(done); run.RunWithContext(ctx) }()
	follower := firstPorts{core: core, next: map[string]turn{}}
	tick := time.NewTicker(firstPortEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			follower.look(ctx, now, store.List())
		case <-ctx.Done():
			<-done
			return nil
		}
	}
}

// onlyIfWanted keeps of a service what is needed here, so that a cluster's many others take little memory.
func onlyIfWanted(object any) (any, error) {
	s, ok := object.(*v1.Service)
	if !ok {
		return object, nil
	}
	kept := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name, ResourceVersion: s.ResourceVersion}}
	if v1beta1.WantsFirstPort(s) {
		kept.Annotations, kept.Spec.Selector = map[string]string{v1beta1.AnnotationFirstPort: s.Annotations[v1beta1.AnnotationFirstPort]}, s.Spec.Selector
	}
	return kept, nil
}

// firstPorts looks after services. next says when, after the last look at each.
type firstPorts struct {
	core corev1.CoreV1Interface
	next map[string]turn
}

// turn is when a service is looked after again, and how long that is after the last time.
type turn struct {
	at   time.Time
	wait time.Duration
}

// look looks after those services whose time has come.
func (f firstPorts) look(ctx context.Context, now time.Time, services []any) {
	there := map[string]bool{}
	for _, object := range services {
		s, ok := object.(*v1.Service)
		if !ok || !v1beta1.WantsFirstPort(s) || len(s.Spec.Selector) == 0 {
			continue
		}
		key := s.Namespace + "/" + s.Name
		there[key] = true
		last := f.next[key]
		if now.Before(last.at) {
			continue
		}
		found, err := f.follow(ctx, s)
		if err != nil && ctx.Err() == nil {
			logrus.WithError(err).WithField("service", key).Warn("cannot find the first port of a service's pods; trying again")
		}
		wait := firstPortAgain
		if !found {
			wait = min(max(2*last.wait, firstPortEvery), firstPortAgain)
		}
		f.next[key] = turn{now.Add(wait), wait}
	}
	maps.DeleteFunc(f.next, func(key string, _ turn) bool { return !there[key] })
}

// follow makes the service send to the first port of its pods. It reports whether there is a pod with a port.
func (f firstPorts) follow(ctx context.Context, s *v1.Service) (found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, firstPortCalls)
	defer cancel()
	pods, err := f.core.Pods(s.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(s.Spec.Selector).String(), Limit: podsToAsk})
	if err != nil {
		return false, err
	}
	var port int32
	for i := 0; i < len(pods.Items) && !found; i++ {
		port, found = v1beta1.FirstPort(&pods.Items[i])
	}
	if !found {
		return false, nil
	}
	now, err := f.core.Services(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	if !v1beta1.WantsFirstPort(now) || !v1beta1.SetFirstPort(now, port) {
		return true, nil
	}
	_, err = f.core.Services(s.Namespace).Update(ctx, now, metav1.UpdateOptions{})
	return err == nil, err
}
