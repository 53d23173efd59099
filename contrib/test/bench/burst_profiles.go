package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// lookAfter is when a burst of a hundred pods is in its midst.
const lookAfter = 10 * time.Second

// profile writes what the kubelet does in the midst of the largest burst to the directory for profiles, until ctx ends. It returns what
// waits for that, and then writes the kubelet's metrics. Without a directory it does nothing.
func (f burstFigures) profile(ctx context.Context, c *scratch.Cluster) (finish func() error) {
	if f.profiles == "" || !f.last() {
		return func() error { return nil }
	}
	ask := func(ctx context.Context, path, file string, params map[string]string) error {
		nodes, err := c.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil || len(nodes.Items) == 0 {
			return err
		}
		request := c.Kube.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + nodes.Items[0].Name + "/proxy/" + path)
		for name, value := range params {
			request = request.Param(name, value)
		}
		text, err := request.DoRaw(ctx)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(f.profiles, file), text, 0o600)
	}
	looking, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		if idle(looking, lookAfter) != nil {
			done <- nil // it was over before
			return
		}
		done <- errors.Join(
			ask(ctx, "debug/pprof/goroutine", "kubelet-goroutines.txt", map[string]string{"debug": "2"}),
			ask(ctx, "debug/pprof/profile", "kubelet-cpu.pprof", map[string]string{"seconds": "5"}),
			ask(ctx, "debug/pprof/goroutine", "kubelet-goroutines-later.txt", map[string]string{"debug": "2"}))
	}()
	return func() error {
		cancel()
		return errors.Join(<-done, ask(ctx, "metrics", "kubelet-metrics.txt", nil))
	}
}
