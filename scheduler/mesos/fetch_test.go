package mesos_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/artifact"
)

// serveSelf serves this binary as the scheduler serves km.
func (c *cluster) serveSelf() scheduler.Artifact {
	c.t.Helper()
	server, err := artifact.Listen(artifact.Config{Address: ":0"}, []string{c.mesos.MasterAddr()})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Error(err)
		}
	})
	return scheduler.Artifact{URL: server.URL(), SHA256: server.SHA256()}
}

// fetching has the schedulers send the artifact to agents.
func (c *cluster) fetching(a scheduler.Artifact) {
	c.change = func(cfg *scheduler.Config) { cfg.KMPath, cfg.Artifact = "", a }
}

// eventOf waits for an event of the pod that says all of this.
func (c *cluster) eventOf(pod string, words ...string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("an event of pod %s that says %q", pod, words), func(ctx context.Context) bool {
		list, err := c.client.CoreV1().Events("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return false
		}
		for _, e := range list.Items {
			said := e.InvolvedObject.Name == pod
			for _, word := range words {
				said = said && strings.Contains(e.Message, word)
			}
			if said {
				return true
			}
		}
		return false
	})
}

func TestMinionIsFetchedFromTheSchedulerAndASchedulerElsewhereLeavesItAlone(t *testing.T) {
	c := newCluster(t, 1)
	c.fetching(c.serveSelf())
	stop := c.schedule()
	c.createPod("web", "500m")
	c.wait("web", "a node", bound)
	found, err := filepath.Glob(filepath.Join(c.config.WorkDir, "agents/*/slaves/*/frameworks/*/executors/*/runs/latest/km"))
	if err != nil || len(found) != 1 {
		t.Fatalf("in the sandbox: %v, %v", found, err)
	}
	stop()
	c.fetching(c.serveSelf()) // at another port
	c.schedule()
	c.createPod("next", "500m")
	c.wait("next", "a node, by the executor that runs", bound)
	c.wait("web", "its first task still", hasTask("uid-web.1"))
	if err := c.mesos.KillExecutor(0, c.store.framework, api.MinionExecutorID); err != nil {
		t.Fatal(err)
	}
	c.wait("web", "its second task, by an executor from elsewhere", hasTask("uid-web.2"))
}

func TestMinionThatCannotBeFetchedOrIsAnotherOneFailsItsTaskWhichIsTriedAgain(t *testing.T) {
	c := newCluster(t, 1)
	content := make(chan []byte, 1)
	content <- nil
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := <-content
		content <- now
		if now == nil {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(now) // who does not read it to its end tells by failing
	}))
	t.Cleanup(server.Close)
	good := c.serveSelf()
	c.fetching(scheduler.Artifact{URL: server.URL + "/km", SHA256: good.SHA256})
	c.schedule()
	c.createPod("web", "500m")
	c.eventOf("web", "Failed to fetch all URIs", server.URL, "404")
	program, err := os.ReadFile(self(t))
	if err != nil {
		t.Fatal(err)
	}
	<-content
	content <- program
	c.wait("web", "a node", bound)

	c = newCluster(t, 1)
	<-content
	content <- []byte("#!/bin/sh\nsleep 100\n")
	c.fetching(scheduler.Artifact{URL: server.URL + "/km", SHA256: good.SHA256})
	c.schedule()
	c.createPod("web", "500m")
	c.eventOf("web", "ended before the pod was started", "Executor terminated")
	logs, err := filepath.Glob(filepath.Join(c.config.WorkDir, "agents/*/slaves/*/frameworks/*/executors/*/runs/*/stderr"))
	if err != nil || len(logs) == 0 {
		t.Fatal(logs, err)
	}
	said, err := os.ReadFile(logs[0])
	if err != nil || !strings.Contains(string(said), "not the scheduler's: its SHA-256 is not "+good.SHA256) {
		t.Errorf("the sandbox's stderr says %q, %v", said, err)
	}
	if pod := c.wait("web", "nothing", func(*v1.Pod) bool { return true }); pod.Spec.NodeName != "" {
		t.Error("what is not the scheduler's program ran")
	}
}
