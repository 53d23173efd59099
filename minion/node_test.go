package minion

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	dockerclient "github.com/docker/docker/client"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/executor"
	"github.com/k8sm/k8sm/executor/kube"
	"github.com/k8sm/k8sm/minion/status"
	"github.com/k8sm/k8sm/minion/supervise"
)

// TestMain lets this test be the stock programs, which a node starts as commands of its own program: a kubelet that hangs,
// and a proxy that says which nft it would run, and is done.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "kubelet" {
		hang(os.Args[2:])
	}
	if len(os.Args) > 1 && os.Args[1] == "proxy" {
		found, _ := exec.LookPath("nft")
		fmt.Println(found)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// hang notes its process beside the kubelet's directory and heeds no SIGTERM.
func hang(args []string) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	for _, arg := range args {
		if dir, ok := strings.CutPrefix(arg, "--root-dir="); ok {
			_ = os.WriteFile(dir+".pid", []byte(strconv.Itoa(os.Getpid())), 0o600)
		}
	}
	for range signals { //nolint:revive // it does nothing
	}
}

// trace notes what happened, in order.
type trace struct {
	mu    sync.Mutex // guards steps
	steps []string
}

func (r *trace) add(step string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = append(r.steps, step)
}

func (r *trace) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.steps)
}

// before fails the test unless all of the first steps came before all of the others.
func (r *trace) before(t *testing.T, first, others []string) {
	t.Helper()
	steps := r.all()
	for _, one := range first {
		for _, other := range others {
			i, j := slices.Index(steps, one), slices.Index(steps, other)
			if i < 0 || j < 0 || i > j {
				t.Errorf("%q should come before %q: %q", one, other, steps)
			}
		}
	}
}

// dockerEngine is a Docker Engine without containers that run: it knows them, ends and removes them.
type dockerEngine struct {
	trace
	host  string
	asked chan string // the path of each request, for whoever waits

	mu         sync.Mutex // guards the rest
	down       bool
	containers map[string]*dockerContainer // by id
	committed  string                      // an image of a commit, until it is removed
}

type dockerContainer struct {
	labels   map[string]string
	running  bool
	stubborn bool // it does not end by itself
	ended    chan struct{}
}

func startDocker(t *testing.T) *dockerEngine {
	e := &dockerEngine{asked: make(chan string, 1000), containers: map[string]*dockerContainer{}}
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	e.host = "tcp://" + server.Listener.Addr().String()
	return e
}

func (e *dockerEngine) run(id string, stubborn bool, labels map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[id] = &dockerContainer{labels: labels, running: true, stubborn: stubborn, ended: make(chan struct{})}
}

func (e *dockerEngine) setDown(down bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = down
}

// left are the containers that are there, by id.
func (e *dockerEngine) left() (ids []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range e.containers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

var (
	versioned   = regexp.MustCompile(`^/v[0-9.]+`)
	ofContainer = regexp.MustCompile(`^/containers/([^/]+)(/[a-z]+)?$`)
)

func (e *dockerEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := versioned.ReplaceAllString(r.URL.Path, "")
	select {
	case e.asked <- path:
	default: // nobody waits
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	w.Header().Set("API-Version", "1.41")
	w.Header().Set("Content-Type", "application/json")
	match := ofContainer.FindStringSubmatch(path)
	switch {
	case e.down:
		http.Error(w, `{"message":"the Engine is starting"}`, http.StatusServiceUnavailable)
	case path == "/_ping":
	case path == "/info":
		fmt.Fprint(w, `{"CgroupDriver":"cgroupfs"}`)
	case path == "/containers/json":
		e.list(w, r)
	case path == "/images/json" && e.committed != "":
		fmt.Fprintf(w, `[{"Id":"sha256:1","RepoTags":[%q]}]`, e.committed)
	case path == "/images/json":
		fmt.Fprint(w, `[]`)
	case path == "/images/"+e.committed && r.Method == http.MethodDelete:
		e.add("remove image")
		e.committed = ""
		fmt.Fprint(w, `[]`)
	case match != nil && e.containers[match[1]] != nil:
		e.serve(w, r, match[1], match[2])
	default:
		http.Error(w, `{"message":"no such thing"}`, http.StatusNotFound)
	}
}

func (e *dockerEngine) list(w http.ResponseWriter, r *http.Request) {
	var filters struct{ Label map[string]bool }
	if err := json.Unmarshal([]byte(r.URL.Query().Get("filters")), &filters); err != nil {
		http.Error(w, `{"message":"which ones?"}`, http.StatusBadRequest)
		return
	}
	found := []map[string]any{}
	for id, c := range e.containers {
		matches := true
		for label := range filters.Label {
			key, value, _ := strings.Cut(label, "=")
			matches = matches && c.labels[key] == value
		}
		if matches {
			found = append(found, map[string]any{"Id": id, "Labels": c.labels, "State": map[bool]string{true: "running", false: "exited"}[c.running]})
		}
	}
	_ = json.NewEncoder(w).Encode(found)
}

// serve is called with the mutex held.
func (e *dockerEngine) serve(w http.ResponseWriter, r *http.Request, id, verb string) {
	c := e.containers[id]
	switch {
	case r.Method == http.MethodDelete:
		e.add("remove " + id)
		delete(e.containers, id)
		w.WriteHeader(http.StatusNoContent)
	case verb == "/json":
		fmt.Fprintf(w, `{"Id":%q,"Config":{}}`, id)
	case verb == "/kill":
		e.add("end " + id)
		if c.running && !c.stubborn {
			c.running = false
			close(c.ended)
		}
		w.WriteHeader(http.StatusNoContent)
	case verb == "/wait":
		e.mu.Unlock()
		defer e.mu.Lock()
		select {
		case <-c.ended:
			fmt.Fprint(w, `{"StatusCode":0}`)
		case <-r.Context().Done():
		}
	}
}

// await returns when a request has come whose path begins so.
func (e *dockerEngine) await(t *testing.T, prefix string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		select {
		case asked := <-e.asked:
			if strings.HasPrefix(asked, prefix) {
				return
			}
		case <-ctx.Done():
			t.Fatalf("the Engine was never asked for %s…", prefix)
		}
	}
}

// pretended is a pod network that only notes what is done to it.
type pretended struct {
	podNetwork
	*trace
	err error
}

func (p pretended) Teardown() error {
	p.add("tear the network down")
	return p.err
}

// newStartedNode returns a node that is prepared, on an Engine with containers of its own and of others.
func newStartedNode(t *testing.T) (*node, *dockerEngine) {
	t.Helper()
	files, boot := testNode(t, newAuthority(t))
	engine := startDocker(t)
	boot.Cluster = "test-" + filepath.Base(filepath.Dir(filepath.Dir(files.dir)))
	n := &node{boot: boot, claims: claims{filepath.Join(t.TempDir(), "claims")}, files: files, settings: settings{files: files}, log: logrus.WithField("node", boot.Node), started: time.Now(), metrics: status.NewMetrics("v1", "v2")}
	n.cluster.StatusPort = ptr(0)
	n.cluster.DockerHost = engine.host
	n.cluster.Network.Mode = api.NetworkCNI // it is in no program's hands
	n.cluster.CleanupDelay = &metav1.Duration{Duration: time.Hour}
	n.network = pretended{trace: &engine.trace}
	n.env.Sandbox, n.env.Directory, n.env.AgentEndpoint = t.TempDir(), "/sandboxes/container", "127.0.0.1:1"
	n.env.ExecutorShutdownGracePeriod = 10 * time.Second
	var err error
	if n.docker, err = dockerclient.NewClientWithOpts(dockerclient.WithHost(engine.host), dockerclient.WithAPIVersionNegotiation()); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(n.locks().Node), 0o700); err != nil { // as the lock does that a minion has
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = n.docker.Close()
		if err := errors.Join(n.locks().Dismiss(), os.RemoveAll(filepath.Join(nodeLocks, boot.Cluster))); err != nil {
			t.Error(err)
		}
	})
	own := map[string]string{api.DockerLabelFramework: boot.Cluster, api.DockerLabelNode: boot.Node}
	with := func(key, value string) map[string]string {
		labels := map[string]string{key: value}
		for k, v := range own {
			if _, given := labels[k]; !given {
				labels[k] = v
			}
		}
		return labels
	}
	engine.run("web", false, with("io.k8sm.kind", "container"))
	engine.run("sandbox", false, with("io.k8sm.kind", "sandbox"))
	engine.run("other-node", false, with(api.DockerLabelNode, "agent-2"))
	engine.run("other-cluster", false, with(api.DockerLabelFramework, "other"))
	engine.run("strangers", false, nil)
	return n, engine
}

var others = []string{"other-cluster", "other-node", "strangers"}

// runningParts are parts that note when they end.
func runningParts(ctx context.Context, r *trace) parts {
	start := func(name string) *supervise.Part {
		return supervise.Start(ctx, name, func(ctx context.Context) error {
			<-ctx.Done()
			r.add("stop " + name)
			return ctx.Err()
		})
	}
	return parts{
		runtime: start("runtime"), kubelet: start("kubelet"), policies: start("policies"), status: start("status"), report: start("report"),
		network: start("network"), peers: start("peers"), pods: start("pods"), proxy: start("proxy"), commits: start("commits"),
	}
}

func shareOf(t *testing.T) *machineShare {
	t.Helper()
	share, err := shareMachine(filepath.Join(t.TempDir(), "machine"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { share.Close() })
	return share
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Stat(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func TestStopEndsTheKubeletFirstThenContainersThenTheirRuntime(t *testing.T) {
	n, engine := newStartedNode(t)
	engine.committed = "k8sm.io/commit/" + n.boot.Node + ":uid"
	if err := os.MkdirAll(filepath.Join(n.files.commits(), "uid"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := n.guard(); err != nil {
		t.Log(err) // without an embedded warden there is none
	}
	if err := n.stop(t.Context(), runningParts(t.Context(), &engine.trace), shareOf(t)); err != nil {
		t.Fatal(err)
	}
	engine.before(t, []string{"stop kubelet"}, []string{"stop report", "stop commits", "stop pods", "stop policies", "stop peers", "stop network"})
	engine.before(t, []string{"stop kubelet", "stop network"}, []string{"end web"})
	engine.before(t, []string{"remove image"}, []string{"end web"})
	engine.before(t, []string{"end web"}, []string{"remove web"})
	engine.before(t, []string{"remove web"}, []string{"remove sandbox"})
	engine.before(t, []string{"remove sandbox"}, []string{"tear the network down"})
	engine.before(t, []string{"tear the network down", "stop proxy"}, []string{"stop runtime"})
	if left := engine.left(); !slices.Equal(left, others) {
		t.Errorf("these containers are left: %q", left)
	}
	if exists(t, n.files.leftovers()) || exists(t, filepath.Join(n.files.commits(), "uid")) {
		t.Error("the record of what there is to remove, or a commit, is left")
	}
}

func TestStopThatFailsGoesOnAndKeepsTheRecordOfWhatIsLeft(t *testing.T) {
	n, engine := newStartedNode(t)
	if err := n.guard(); err != nil {
		t.Log(err)
	}
	broken := errors.New("the bridge is busy")
	n.network = pretended{trace: &engine.trace, err: broken}
	engine.setDown(true)
	err := n.stop(t.Context(), runningParts(t.Context(), &engine.trace), shareOf(t))
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "the Engine is starting") {
		t.Errorf("not all that failed is told: %v", err)
	}
	engine.before(t, []string{"tear the network down"}, []string{"stop runtime"})
	if !exists(t, n.files.leftovers()) {
		t.Error("nobody will know that containers are left")
	}
	engine.setDown(false)
	n.network = pretended{trace: &engine.trace}
	if err := n.stop(t.Context(), parts{}, shareOf(t)); err != nil || exists(t, n.files.leftovers()) {
		t.Errorf("the second stop does not make up for it: %v", err)
	}
	if left := engine.left(); !slices.Equal(left, others) {
		t.Errorf("these containers are left: %q", left)
	}
}

func TestSecondStopFindsNothingToDo(t *testing.T) {
	n, engine := newStartedNode(t)
	if err := n.guard(); err != nil {
		t.Log(err)
	}
	running := runningParts(t.Context(), &engine.trace)
	for range 2 {
		if err := n.stop(t.Context(), running, shareOf(t)); err != nil {
			t.Error(err)
		}
	}
}

func TestContainerThatDoesNotEndIsRemovedInTime(t *testing.T) {
	n, engine := newStartedNode(t)
	if err := n.guard(); err != nil {
		t.Log(err)
	}
	engine.run("stubborn", true, map[string]string{
		api.DockerLabelFramework: n.boot.Cluster, api.DockerLabelNode: n.boot.Node,
		"io.k8sm.kind": "container", "io.k8sm.record": `{"annotations":{"io.kubernetes.pod.terminationGracePeriod":"3600"}}`,
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := n.stop(ctx, parts{}, shareOf(t)); err != nil || ctx.Err() != nil {
		t.Errorf("%v, %v", err, ctx.Err())
	}
	if left := engine.left(); !slices.Equal(left, others) {
		t.Errorf("these containers are left: %q", left)
	}
}

func TestWhatAnEarlierMinionLeftIsCleanedUp(t *testing.T) {
	n, engine := newStartedNode(t)
	if err := n.guard(); err != nil {
		t.Log(err)
	}
	root := filepath.Dir(filepath.Dir(n.files.dir))
	if err := os.Rename(filepath.Join(root, "k8sm"), filepath.Join(root, n.boot.Cluster)); err != nil {
		t.Fatal(err)
	}
	n.files.dir = filepath.Join(root, n.boot.Cluster, n.boot.Node)
	engine.setDown(true)
	if err := CleanUp(t.Context(), n.boot.Cluster, root, ""); err == nil || !strings.Contains(err.Error(), "Docker Engine") {
		t.Errorf("without an Engine: %v", err)
	}
	engine.setDown(false)
	if err := CleanUp(t.Context(), n.boot.Cluster, root, "agent-2"); err != nil || len(engine.left()) != 5 {
		t.Errorf("another node was named: %v, left are %q", err, engine.left())
	}
	before, err := nodesLeft(n.boot.Cluster, root)
	if err != nil || len(before) != 1 {
		t.Fatalf("%d nodes have left something (%v)", len(before), err)
	}
	for range 2 {
		if err := CleanUp(t.Context(), n.boot.Cluster, root, ""); err != nil {
			t.Error(err)
		}
		if left := engine.left(); !slices.Equal(left, others) {
			t.Errorf("these containers are left: %q", left)
		}
	}
	// Whoever has waited for that with the same intention finds nothing to do.
	if err := before[0].cleanUpWhenFree(t.Context()); err != nil {
		t.Error(err)
	}
}

// apiServer answers nodes that ask for their configuration, or says that it cannot.
func apiServer(t *testing.T, cluster *api.MinionConfig) (url string, ca []byte, asked chan struct{}) {
	t.Helper()
	asked = make(chan struct{}, 100)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		if cluster == nil {
			http.Error(w, "the API server is starting", http.StatusServiceUnavailable)
			return
		}
		data, err := json.Marshal(cluster)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Namespace: api.MinionConfigNamespace, Name: api.MinionConfigName},
			Data:       map[string]string{api.MinionConfigKey: string(data)},
		})
	}))
	t.Cleanup(server.Close)
	return server.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), asked
}

// TestShutdownDuringTheStartEndsItAndLeavesNothing stops nodes, on which an earlier minion has left containers, at each
// place where a start may have to wait.
func TestShutdownDuringTheStartEndsItAndLeavesNothing(t *testing.T) {
	const anotherEnds = "another minion of the node is about to end"
	for name, test := range map[string]struct {
		noAPI, noEngine, kubelet bool
		wait                     func(t *testing.T, files layout, engine *dockerEngine, asked chan struct{})
		stops                    bool // it has begun to be a node
	}{
		anotherEnds:                      {wait: func(*testing.T, layout, *dockerEngine, chan struct{}) {}},
		"the API server does not answer": {noAPI: true, wait: func(_ *testing.T, _ layout, _ *dockerEngine, asked chan struct{}) { <-asked }},
		"the Engine does not answer": {noEngine: true, wait: func(t *testing.T, _ layout, engine *dockerEngine, _ chan struct{}) {
			engine.await(t, "/_ping")
		}},
		"the CRI server does not start": {stops: true, wait: func(t *testing.T, _ layout, engine *dockerEngine, _ chan struct{}) {
			engine.await(t, "/images/")
		}},
		"the kubelet hangs": {stops: true, kubelet: true, wait: func(t *testing.T, files layout, _ *dockerEngine, _ chan struct{}) {
			awaitFile(t, files.kubelet()+".pid")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			n, engine := newStartedNode(t)
			root := filepath.Dir(filepath.Dir(n.files.dir))
			cluster := n.cluster
			cluster.RootDir, cluster.NetworkPolicy = root, ptr(false)
			told := &cluster
			if test.noAPI {
				told = nil
			}
			var asked chan struct{}
			n.boot.APIServer, n.boot.CA, asked = apiServer(t, told)
			n.cfg.Given.RootDir = root
			n.registration = executor.Registration{Agent: "a1", AgentResources: map[string]float64{"cpus": 1, "mem": 512}}
			engine.setDown(test.noEngine)
			n.files.dir = filepath.Join(root, n.boot.Cluster, n.boot.Node)
			if err := n.files.make(); err != nil {
				t.Fatal(err)
			}
			if test.kubelet { // somebody listens where the CRI server would
				listener, err := net.Listen("unix", n.files.socket())
				if err != nil {
					t.Fatal(err)
				}
				defer listener.Close()
			}
			other, err := shareThisMachine() // the rules of services are for another one to remove
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			if name == anotherEnds {
				unlock, err := lock(t.Context(), n.locks().Node)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = unlock() }()
			}
			ctx, shutdown := context.WithCancel(t.Context())
			defer shutdown()
			ended, files := make(chan error, 1), n.files
			go func() { ended <- n.run(ctx, kube.NewPods(), func(executor.Event) {}) }()
			test.wait(t, files, engine, asked)
			shutdown()
			if err := <-ended; err != nil {
				t.Errorf("the start was only interrupted: %v", err)
			}
			engine.setDown(false)
			n.checkStopped(t, engine, test.stops)
		})
	}
}

// checkStopped checks what a node leaves: nothing if it has begun to be one, else what was there before.
func (n *node) checkStopped(t *testing.T, engine *dockerEngine, stops bool) {
	t.Helper()
	if left := engine.left(); stops != slices.Equal(left, others) {
		t.Errorf("these containers are left: %q", left)
	}
	if stops && exists(t, n.files.leftovers()) {
		t.Error("the record of what there is to remove is left")
	}
	if claimed, err := filepath.Glob(n.claims.file("*", "*")); stops && (len(claimed) > 0 || err != nil) {
		t.Errorf("the claim of the machine is left: %q, %v", claimed, err)
	}
	if pid, err := os.ReadFile(n.files.kubelet() + ".pid"); err == nil {
		number, err := strconv.Atoi(string(pid))
		if err != nil {
			t.Fatal(err)
		}
		if syscall.Kill(number, 0) == nil {
			t.Errorf("the kubelet runs on as process %d", number)
			_ = syscall.Kill(number, syscall.SIGKILL)
		}
	}
}

func awaitFile(t *testing.T, path string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for text, err := os.ReadFile(path); err != nil || len(text) == 0; text, err = os.ReadFile(path) {
		if supervise.Sleep(ctx, 10*time.Millisecond) != nil {
			t.Fatalf("%s did not come: %v", path, err)
		}
	}
}

func TestPodsWaitForOtherNodesOnlyWhereTheMinionRoutesToThem(t *testing.T) {
	for mode, want := range map[api.NetworkMode]time.Duration{
		"": awaitPeers, api.NetworkAuto: awaitPeers, api.NetworkRoutes: awaitPeers, api.NetworkVXLAN: awaitPeers, api.NetworkNone: 0, api.NetworkCNI: 0,
	} {
		n := &node{metrics: status.NewMetrics("v1", "v2")}
		n.cluster.Network.Mode = mode
		if got := n.networkConfig().AwaitPeers; got != want {
			t.Errorf("--network=%s: pods wait %s, want %s", mode, got, want)
		}
	}
}
