package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/backoff"
	"github.com/k8sm/k8sm/api/commit"
	"github.com/k8sm/k8sm/api/etcd"
)

// etcdTimeout bounds one write to etcd.
const etcdTimeout = 10 * time.Second

// commitRecorder writes the addresses of committed pods to etcd, below commit.KeyPrefix, and notes in the Commits that it has. So
// those who make Commits need no rights in etcd. An address is the one that the scheduler gave the pod, whatever the Commit says.
type commitRecorder struct {
	admin clients
	etcd  clientv3.KV
	// without are Commits that get no address: their pods have none of a pool, or the image is not named after it. By UID.
	without map[types.UID]bool
}

// recordCommits runs a commitRecorder until ctx ends.
func recordCommits(ctx context.Context, admin clients) error {
	client, err := etcd.Dial(admin.etcd)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	r := commitRecorder{admin: admin, etcd: client, without: map[types.UID]bool{}}
	return r.run(ctx)
}

// run handles all Commits at each change, and again after a failure, until ctx ends.
func (r *commitRecorder) run(ctx context.Context) error {
	factory := dynamicinformer.NewDynamicSharedInformerFactory(r.admin.objects, 0)
	informer := factory.ForResource(commit.Resource).Informer()
	changed := make(chan struct{}, 1) // coalesces bursts of changes
	change := func(any) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: change, UpdateFunc: func(_, o any) { change(o) }})
	if err != nil {
		return fmt.Errorf("cannot watch Commits: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	first := backoff.Between(time.Second, time.Minute)
	pauses := first
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-again:
		}
		again = nil
		if err := r.recordAll(ctx, informer.GetStore().List()); err != nil && ctx.Err() == nil {
			logrus.WithError(err).Warn("cannot record the address of a committed pod: trying again")
			again = time.After(pauses.Step())
		} else {
			pauses = first
		}
	}
}

func (r *commitRecorder) recordAll(ctx context.Context, objects []any) (err error) {
	for _, o := range objects {
		object, ok := o.(*unstructured.Unstructured)
		if !ok || r.without[object.GetUID()] {
			continue
		}
		c, readErr := commit.Read(object)
		if readErr == nil && c.Status.Phase == commit.Succeeded && c.Status.Address == "" {
			readErr = r.record(ctx, c)
		}
		err = errors.Join(err, readErr)
	}
	return err
}

// record writes the address of a finished Commit's pod.
func (r *commitRecorder) record(ctx context.Context, c commit.Commit) error {
	address, err := r.address(ctx, c)
	if err != nil {
		return err
	}
	key := commit.Key(c.Spec.Image, address)
	if key == "" {
		r.without[c.UID] = true
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	if _, err := r.etcd.Put(ctx, key, address.String()); err != nil {
		return fmt.Errorf("cannot write %s to etcd: %w", key, err)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": c.UID}, "status": map[string]any{"address": address.String()}})
	if err != nil {
		return err
	}
	_, err = r.admin.objects.Resource(commit.Resource).Namespace(c.Namespace).Patch(ctx, c.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // it was deleted
		return nil
	}
	return err
}

// address returns the pool address of the Commit's pod; not a valid one if it has none or is gone.
func (r *commitRecorder) address(ctx context.Context, c commit.Commit) (address netip.Addr, err error) {
	pod, err := r.admin.typed.CoreV1().Pods(c.Namespace).Get(ctx, c.Spec.PodName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && pod.UID != c.Spec.PodUID {
		return address, nil
	}
	if err != nil {
		return address, fmt.Errorf("cannot read pod %s/%s: %w", c.Namespace, c.Spec.PodName, err)
	}
	address, _ = netip.ParseAddr(pod.Annotations[api.AnnotationIPAssigned])
	return address, nil
}
