package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// kinds are the kinds of clients.
const (
	kubectl     = "kubectl, each other server"
	balanced    = "kubectl, any server"
	dns         = "DNS"
	scheduling  = "a pod runs"
	deployments = "a Deployment's pod runs"
	heartbeats  = "heartbeats of all nodes"
)

// prober works as a client during a fault.
type prober struct {
	kind string
	// steady clients are away until the last failure of many attempts, others until they succeed.
	steady bool
	try    func(context.Context) error
}

// away is how long a kind of client was away after a fault.
type away struct {
	took time.Duration
	err  error
}

const (
	// measurePatience is when a client gives up.
	measurePatience = 90 * time.Second
	// window is how long steady clients work at least, attempts how many of their last ones must succeed.
	window   = 15 * time.Second
	attempts = 10
)

// probers returns those that work while a master is harmed.
func (c *cluster) probers(harmed *master, from time.Time) (all []prober) {
	others := slices.DeleteFunc(slices.Clone(c.masters), func(m *master) bool { return m == harmed })
	for _, m := range others {
		all = append(all, prober{kubectl, true, func(ctx context.Context) error { return write(ctx, m.kube, "probe") }})
	}
	all = append(all, prober{balanced, true, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, kubeTimeout)
		defer cancel()
		return write(ctx, c.client, "balanced")
	}})
	if !c.nodes {
		return all
	}
	if c.addOns != nil {
		all = append(all, c.addOnProbers(others, from)...)
	}
	name, kube := fmt.Sprintf("after-%d", from.UnixMilli()), others[0].kube
	return append(all, prober{dns, true, c.resolve},
		prober{scheduling, false, func(ctx context.Context) error { return schedules(ctx, kube, name) }},
		prober{deployments, false, func(ctx context.Context) error { return deploys(ctx, kube, name) }},
		prober{heartbeats, false, func(ctx context.Context) error { return beats(ctx, kube, from) }})
}

// measure lets all clients work from the time of the fault on. Of several of one kind, the one that was away longest counts.
func (c *cluster) measure(ctx context.Context, harmed *master, from time.Time) map[string]away {
	all := c.probers(harmed, from)
	results := make([]away, len(all))
	var working sync.WaitGroup
	for i, one := range all {
		working.Go(func() {
			if one.steady {
				results[i] = steadily(ctx, one.try, from)
				return
			}
			err := scratch.Until(ctx, measurePatience, one.try)
			results[i] = away{time.Since(from), err}
		})
	}
	working.Wait()
	worst := map[string]away{}
	for i, one := range all {
		if w, known := worst[one.kind]; !known || results[i].took > w.took {
			worst[one.kind] = results[i]
		}
	}
	return worst
}

// steadily tries again and again, and returns when the last failure was over.
func steadily(ctx context.Context, try func(context.Context) error, from time.Time) (last away) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for well := 0; well < attempts || time.Since(from) < window; {
		err := try(ctx)
		well++
		if err != nil {
			last, well = away{time.Since(from), nil}, 0
		}
		if ctx.Err() != nil || time.Since(from) > measurePatience {
			return away{time.Since(from), errors.Join(err, ctx.Err())}
		}
		<-tick.C
	}
	return last
}

// write writes an object.
func write(ctx context.Context, kube kubernetes.Interface, name string) error {
	maps := kube.CoreV1().ConfigMaps("default")
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"at": time.Now().String()}}
	_, err := maps.Update(ctx, object, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = maps.Create(ctx, object, metav1.CreateOptions{})
	}
	return err
}

// schedules runs a pod that nothing has run before the fault, and removes it.
func schedules(ctx context.Context, kube kubernetes.Interface, name string) error {
	pods := kube.CoreV1().Pods("default")
	p, err := pods.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		p, err = pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: pod(idle)}, metav1.CreateOptions{})
	}
	if err != nil {
		return err
	}
	if p.Status.Phase != corev1.PodRunning {
		return fmt.Errorf("the pod is %s on node %q", p.Status.Phase, p.Spec.NodeName)
	}
	return pods.Delete(ctx, name, metav1.DeleteOptions{})
}

// idle is the script of a pod that does nothing.
const idle = "exec sleep 1000"

// deploys runs a pod that kube-controller-manager has to make first, and removes it.
func deploys(ctx context.Context, kube kubernetes.Interface, name string) error {
	all, one, labels := kube.AppsV1().Deployments("default"), int32(1), map[string]string{"app": name}
	d, err := all.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		d, err = all.Create(ctx, &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: appsv1.DeploymentSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod(idle)}},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		return err
	}
	pods, err := kube.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
	if err != nil {
		return err
	}
	if len(pods.Items) == 0 || pods.Items[0].Status.Phase != corev1.PodRunning {
		return fmt.Errorf("the Deployment has %d pods, and none runs", len(pods.Items))
	}
	return all.Delete(ctx, name, metav1.DeleteOptions{})
}

// beats returns nil when all kubelets have renewed their leases after the fault.
func beats(ctx context.Context, kube kubernetes.Interface, from time.Time) error {
	renewed, err := nodeLeases(ctx, kube)
	if err != nil {
		return err
	}
	for _, at := range renewed {
		if at.Before(from) {
			return fmt.Errorf("a node's lease was renewed last %s before the fault", from.Sub(at))
		}
	}
	return nil
}

// nodeLeases returns when kubelets renewed the leases of all nodes.
func nodeLeases(ctx context.Context, kube kubernetes.Interface) (renewed []time.Time, err error) {
	list, err := kube.CoordinationV1().Leases("kube-node-lease").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	if len(list.Items) != agentCount {
		return nil, fmt.Errorf("there are leases of %d nodes", len(list.Items))
	}
	for _, lease := range list.Items {
		if lease.Spec.RenewTime == nil || !api.KubeletRenewed(&lease) {
			return nil, fmt.Errorf("the lease of %s was not renewed by a kubelet", lease.Name)
		}
		renewed = append(renewed, lease.Spec.RenewTime.Time)
	}
	return renewed, nil
}
