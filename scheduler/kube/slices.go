package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	log "github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api/nodeslices"
)

const (
	// slicePause is the pause between two rounds of writes while nodes keep changing. sliceBurst rounds need not wait: a new node changes
	// twice, when it is made and when it gets its pod CIDRs.
	slicePause = time.Second
	sliceBurst = 3
	// sliceRetry is when a round that has failed is tried again.
	sliceRetry = 5 * time.Second
)

// slicer keeps the slices of nodes for the minions; see package nodeslices. It remembers nothing: each round reads what there is, so
// whatever others have done to it, another scheduler or a restored snapshot, is repaired by the next one.
type slicer struct {
	slices  typedcorev1.ConfigMapInterface
	nodes   corelisters.NodeLister
	synced  cache.InformerSynced
	changed chan struct{} // has an element if nodes have changed
	problem string        // of the last round
}

func newSlicer(client kubernetes.Interface, nodes coreinformers.NodeInformer) (*slicer, error) {
	s := &slicer{slices: client.CoreV1().ConfigMaps(nodeslices.Namespace), nodes: nodes.Lister(), changed: make(chan struct{}, 1)}
	change := func() {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	registration, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { change() },
		UpdateFunc: func(was, is any) {
			before, after := was.(*v1.Node), is.(*v1.Node)
			if !nodeslices.Of(before).Equal(nodeslices.Of(after)) {
				change()
			}
		},
		DeleteFunc: func(any) { change() },
	})
	if err != nil {
		return nil, fmt.Errorf("cannot watch nodes: %w", err)
	}
	s.synced = registration.HasSynced
	return s, nil
}

// run writes slices until ctx ends: at once when nodes change, but seldom while they keep changing. It begins when it knows all nodes.
func (s *slicer) run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), s.synced) {
		return ctx.Err()
	}
	limit := rate.NewLimiter(rate.Every(slicePause), sliceBurst)
	renew := time.NewTicker(nodeslices.RenewEvery)
	defer renew.Stop()
	for {
		if err := limit.Wait(ctx); err != nil {
			return ctx.Err()
		}
		select {
		case <-s.changed: // which this round sees
		default:
		}
		err := s.round(ctx)
		s.note(err)
		var again <-chan time.Time
		if err != nil {
			again = time.After(sliceRetry)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.changed:
		case <-renew.C:
		case <-again:
		}
	}
}

// note logs a problem once. Minions then watch nodes.
func (s *slicer) note(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if problem == s.problem {
		return
	}
	if s.problem = problem; problem == "" {
		log.Info("the slices of nodes are written again")
		return
	}
	log.WithError(err).Warn("cannot keep the slices of nodes, trying again: minions watch all nodes meanwhile")
}

// round makes the slices have what is known of the nodes, and then renews the summary. Each write fails if somebody else has written the
// object since.
func (s *slicer) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	objects, err := s.objects(ctx)
	if err != nil {
		return err
	}
	nodes, err := s.known()
	if err != nil {
		return err
	}
	have := nodeslices.TextsOf(objects)
	want, err := nodeslices.Plan(have, nodes)
	if err != nil {
		return err
	}
	there := map[string]*v1.ConfigMap{}
	for _, object := range objects {
		there[object.Name] = object
	}
	for _, name := range nodeslices.Changes(have, want) {
		var object *v1.ConfigMap
		if text, stays := want[name]; stays {
			object = nodeslices.Object(name, text)
		}
		if err := s.write(ctx, there[name], object); err != nil {
			return fmt.Errorf("cannot write slice %s: %w", name, err)
		}
	}
	if err := s.write(ctx, there[nodeslices.Summary], nodeslices.SummaryObject(want, len(nodes), time.Now())); err != nil {
		return fmt.Errorf("cannot renew their summary: %w", err)
	}
	return nil
}

// objects returns the slices and the summary as etcd has them.
func (s *slicer) objects(ctx context.Context) (objects []*v1.ConfigMap, err error) {
	list, err := s.slices.List(ctx, metav1.ListOptions{LabelSelector: nodeslices.Selector})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		objects = append(objects, &list.Items[i])
	}
	return objects, nil
}

func (s *slicer) known() (nodes []nodeslices.Node, err error) {
	list, err := s.nodes.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("cannot list nodes: %w", err)
	}
	for _, node := range list {
		nodes = append(nodes, nodeslices.Of(node))
	}
	return nodes, nil
}

// write replaces an object: nil for none.
func (s *slicer) write(ctx context.Context, before, after *v1.ConfigMap) error {
	if after == nil {
		exactly := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &before.UID, ResourceVersion: &before.ResourceVersion}}
		err := s.slices.Delete(ctx, before.Name, exactly)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	if before == nil {
		_, err := s.slices.Create(ctx, after, metav1.CreateOptions{})
		return err
	}
	after.UID, after.ResourceVersion = before.UID, before.ResourceVersion
	_, err := s.slices.Update(ctx, after, metav1.UpdateOptions{})
	return err
}
