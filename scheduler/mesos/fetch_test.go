package mesos_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler/artifact"
	"github.com/k8sm/k8sm/scheduler/run"
)

// program returns a small program that runs this binary.
func program(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "km")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexec '"+self(t)+"' \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// serveMinion serves a program that is the minion as the scheduler serves km.
func (c *cluster) serveMinion() run.Artifact {
	c.t.Helper()
	return c.serve(program(c.t))
}

func (c *cluster) serve(program string) run.Artifact {
	c.t.Helper()
	server, err := artifact.Listen(artifact.Config{Address: ":0", Program: program}, []string{c.mesos.MasterAddr()})
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
	return run.Artifact{URL: server.URL(), SHA256: server.SHA256(), BLAKE2b: server.BLAKE2b()}
}

// fetching has the schedulers send the artifact to agents.
func (c *cluster) fetching(a run.Artifact) {
	c.change = func(cfg *run.Config) { cfg.KMPath, cfg.Artifact = "", a }
}

// packed returns an archive of the file, as km.
func packed(t *testing.T, path string) []byte {
	t.Helper()
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	packer, err := gzip.NewWriterLevel(&archive, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	files := tar.NewWriter(packer)
	err = files.WriteHeader(&tar.Header{Name: "km", Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg})
	_, writeErr := files.Write(program)
	if err = errors.Join(err, writeErr, files.Close(), packer.Close()); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
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
	t.Parallel()
	c := newCluster(t, 1)
	c.fetching(c.serveMinion())
	stop := c.schedule()
	c.createPod("web", "500m")
	c.wait("web", "a node", bound)
	found, err := filepath.Glob(filepath.Join(c.config.WorkDir, "agents/*/slaves/*/frameworks/*/executors/*/runs/latest/km"))
	if err != nil || len(found) != 1 {
		t.Fatalf("in the sandbox: %v, %v", found, err)
	}
	stop()
	c.fetching(c.serveMinion()) // at another port
	c.schedule()
	c.createPod("next", "500m")
	c.wait("next", "a node, by the executor that runs", bound)
	c.wait("web", "its first task still", hasTask("uid-web.1"))
	if err := c.mesos.KillExecutor(0, c.store.framework, api.MinionExecutorID); err != nil {
		t.Fatal(err)
	}
	c.wait("web", "another task, by an executor from elsewhere", hasOtherTask)
}

func TestMinionThatCannotBeFetchedOrIsAnotherOneFailsItsTaskWhichIsTriedAgain(t *testing.T) {
	t.Parallel()
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
	good := c.serveMinion()
	c.fetching(run.Artifact{URL: server.URL + "/km.tar.gz", SHA256: good.SHA256, BLAKE2b: good.BLAKE2b})
	c.schedule()
	c.createPod("web", "500m")
	c.eventOf("web", "Failed to fetch all URIs", server.URL, "404")
	<-content
	content <- packed(t, program(t))
	c.wait("web", "a node", bound)

	c = newCluster(t, 1)
	<-content
	other := filepath.Join(t.TempDir(), "km")
	if err := os.WriteFile(other, []byte("#!/bin/sh\nsleep 100\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	content <- packed(t, other)
	c.fetching(run.Artifact{URL: server.URL + "/km.tar.gz", SHA256: good.SHA256, BLAKE2b: good.BLAKE2b})
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

// slowServer serves an archive to as many as it is told to. The others wait.
type slowServer struct {
	url     string
	release chan struct{}
	arrived chan struct{}

	mu        sync.Mutex // guards what follows
	now, most int
}

func newSlowServer(t *testing.T, archive []byte) *slowServer {
	s := &slowServer{release: make(chan struct{}), arrived: make(chan struct{}, 100)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.count(1)
		defer s.count(-1)
		s.arrived <- struct{}{}
		select {
		case <-s.release:
			_, _ = w.Write(archive)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	s.url = server.URL + "/km.tar.gz"
	return s
}

func (s *slowServer) count(change int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now += change
	s.most = max(s.most, s.now)
}

func TestNoMoreAgentsThanAllowedFetchAtATimeAndAllGetThere(t *testing.T) {
	t.Parallel()
	const agents, most = 8, 3
	c := newCluster(t, agents)
	server := newSlowServer(t, packed(t, program(t)))
	hash := c.serveMinion().SHA256
	c.change = func(cfg *run.Config) {
		cfg.KMPath, cfg.Artifact, cfg.MaxInstalls = "", run.Artifact{URL: server.url, SHA256: hash}, most
	}
	c.schedule()
	for n := range agents {
		c.createPod(fmt.Sprintf("pod-%d", n), "3")
	}
	for range most {
		<-server.arrived
	}
	c.eventually("the other pods wait for their turn", func(ctx context.Context) bool {
		list, err := c.client.CoreV1().Events("default").List(ctx, metav1.ListOptions{})
		waiting := map[string]bool{}
		for i := 0; err == nil && i < len(list.Items); i++ {
			if e := &list.Items[i]; strings.Contains(e.Message, "until others have fetched km") {
				waiting[e.InvolvedObject.Name] = true
			}
		}
		return len(waiting) == agents-most
	})
	close(server.release)
	for n := range agents {
		c.wait(fmt.Sprintf("pod-%d", n), "a node", bound)
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	if server.most != most {
		t.Errorf("%d agents fetched at a time, want %d", server.most, most)
	}
}

func TestFetchFromALeaderThatDiesIsTriedAgainFromTheNextOne(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	good := c.serveMinion()
	dying := newSlowServer(t, nil)
	c.fetching(run.Artifact{URL: dying.url, SHA256: good.SHA256, BLAKE2b: good.BLAKE2b})
	stop := c.schedule()
	c.createPod("web", "500m")
	<-dying.arrived
	stop()
	close(dying.release) // with nothing
	c.fetching(good)
	c.schedule()
	c.wait("web", "a node, by another fetch", bound)
}
