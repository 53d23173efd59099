package main

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/protobuf"
)

// binderOnHollow binds each pod that it sees to the next plain node, without a thought. It shows what the API server can do at most for
// a scheduler that writes nothing but bindings.
type binderOnHollow struct {
	*hollow
	end   func() // nil while it is paused
	group *errgroup.Group
}

func (b *binderOnHollow) start(ctx context.Context) error {
	if err := b.makeNodes(ctx); err != nil {
		return err
	}
	return b.resume(ctx)
}

// binders is how many bindings it has under way, as many as our scheduler.
const binders = 64

// resume binds as one whom nothing limits: it is the administrator, with connections of its own.
func (b *binderOnHollow) resume(ctx context.Context) error {
	config := rest.CopyConfig(b.rest)
	config.Dial = (&net.Dialer{}).DialContext
	client, err := protobuf.NewClient(config)
	if err != nil {
		return err
	}
	pods := make(chan *corev1.Pod, b.fleet.pods+b.backlog)
	stop, err := watchPods(ctx, client, func(pod *corev1.Pod) {
		if pod.Spec.NodeName == "" {
			pods <- pod
		}
	})
	if err != nil {
		return err
	}
	done := make(chan struct{})
	b.end = func() {
		close(done)
		stop()
	}
	b.group = new(errgroup.Group)
	for worker := range binders {
		b.group.Go(func() error {
			for i := worker; ; i += binders {
				select {
				case pod := <-pods:
					if err := bind(ctx, client, pod, plainName(i%b.nodes)); err != nil {
						return err
					}
				case <-done:
					return nil
				}
			}
		})
	}
	return nil
}

func bind(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, node string) error {
	err := client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("cannot bind pod %s: %w", pod.Name, err)
	}
	return nil
}

func (b *binderOnHollow) pause() error {
	if b.end == nil {
		return nil
	}
	b.end()
	b.end = nil
	return b.group.Wait()
}

func (b *binderOnHollow) stop() error { return b.pause() }

// processes are none: it is part of the client.
func (b *binderOnHollow) processes() map[string]int { return nil }

func (b *binderOnHollow) address() string { return "" }
