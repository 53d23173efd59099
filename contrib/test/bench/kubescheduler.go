package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	corev1 "k8s.io/api/core/v1"
	kuberuntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	kube "k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/profile"
)

// kubeScheduler lets the stock kube-scheduler, with its default plugins, place the pods on the nodes, one after the other from its own queue. A decision is one call of ScheduleOne: the choice of the node, but not the binding, which an
// API server that does nothing answers at once.
func kubeScheduler(ctx context.Context, nodes []*corev1.Node, pods []*corev1.Pod) (outcome, error) {
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, klog.NewKlogr()))
	defer cancel()
	bound := make(chan string, 1)
	client := fake.NewClientset()
	client.PrependReactor("create", "pods", func(action kubetesting.Action) (bool, kuberuntime.Object, error) {
		binding, ok := action.(kubetesting.CreateAction).GetObject().(*corev1.Binding)
		if ok {
			bound <- binding.Target.Name
		}
		return ok, binding, nil
	})
	recorders := profile.NewRecorderFactory(events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()}))
	s, err := kube.New(ctx, client, kube.NewInformerFactory(client, 0), nil, recorders)
	if err != nil {
		return outcome{}, fmt.Errorf("cannot make a kube-scheduler: %w", err)
	}
	logger := klog.FromContext(ctx)
	if s.APIDispatcher != nil {
		s.APIDispatcher.Run(logger)
		defer s.APIDispatcher.Close()
	}
	for _, node := range nodes {
		s.Cache.AddNode(logger, node)
	}
	for _, pod := range pods {
		s.SchedulingQueue.Add(ctx, pod)
	}
	defer s.SchedulingQueue.Close()

	runtime.GC()
	o := outcome{hosts: map[string]int64{}, times: make([]time.Duration, 0, len(pods))}
	before := heapObjects()
	for _, pod := range pods {
		begin := time.Now()
		s.ScheduleOne(ctx)
		took := time.Since(begin)
		select {
		case host := <-bound:
			o.times = append(o.times, took)
			o.place(host, pod)
		case <-time.After(10 * time.Second):
			return o, fmt.Errorf("kube-scheduler did not place pod %s", pod.Name)
		case <-ctx.Done():
			return o, ctx.Err()
		}
	}
	o.allocs = heapObjects() - before
	return o, nil
}
