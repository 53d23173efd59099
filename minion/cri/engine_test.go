package cri

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/up/engine"
	"github.com/k8sm/k8sm/minion/network"
)

const (
	testImage   = "k8sm.test/busybox:1"
	testCluster = "cri-test"
	testSubnet  = "10.213.77.0/24"
)

// testEngine is the one Engine of this package's tests, in testEngineDir, and testPods the network of its pods; nil without
// root.
var (
	testEngine    *client.Client
	testEngineDir string
	testPods      *network.Network
)

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	if os.Geteuid() != 0 || fuzzes() {
		return m.Run(), nil
	}
	ctx := context.Background()
	dir, err := os.MkdirTemp("/tmp", "c")
	if err != nil {
		return 1, err
	}
	testEngineDir = dir
	e, err := engine.Start(ctx, engine.Config{Dir: dir})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, e.Stop(ctx), os.RemoveAll(dir)) }()
	if testEngine, err = client.NewClientWithOpts(client.WithHost(e.Host()), client.WithAPIVersionNegotiation()); err != nil {
		return 1, err
	}
	defer testEngine.Close()
	if err := loadTestImage(ctx); err != nil {
		return 1, err
	}
	if testPods, err = network.New(network.Config{Cluster: testCluster, Node: "all", Dir: filepath.Join(dir, "network")}); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, testPods.Teardown()) }()
	if err := testPods.Setup([]string{testSubnet}); err != nil {
		return 1, err
	}
	code = m.Run()
	return code, errors.Join(removeContainers(ctx), removeCgroups())
}

// fuzzes tells whether this process fuzzes, or is one of those that it starts for that: they need no Engine each.
func fuzzes() bool {
	return slices.ContainsFunc(os.Args, func(arg string) bool { return strings.HasPrefix(arg, "-test.fuzz") })
}

func removeContainers(ctx context.Context) error {
	list, err := testEngine.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs()})
	for _, c := range list {
		err = errors.Join(err, testEngine.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true}))
	}
	return err
}

// loadTestImage brings the test image into the test Engine.
func loadTestImage(ctx context.Context) error {
	archive, err := testArchive()
	if err != nil {
		return err
	}
	return loadArchive(ctx, testEngine, archive)
}

// testArchive makes an image of Debian's static busybox.
func testArchive() ([]byte, error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("the tests need busybox-static: %w", err)
	}
	layer, err := tarOf(
		file{"bin/busybox", 0o755, busybox}, file{"bin/sh", 0o755, busybox}, file{"tmp/.keep", 0o644, nil},
		file{"etc/passwd", 0o644, []byte("root:x:0:0::/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n")},
		file{"etc/group", 0o644, []byte("root:x:0:\nweb:x:1000:\nextra:x:5000:web\n")})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Cmd": []string{"/bin/sh"}, "Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		return nil, err
	}
	manifest := fmt.Sprintf(`[{"Config":"config.json","RepoTags":[%q],"Layers":["layer.tar"]}]`, testImage)
	return tarOf(file{"config.json", 0o644, config}, file{"layer.tar", 0o644, layer}, file{"manifest.json", 0o644, []byte(manifest)})
}

// podNetwork is testPods, which is set up already and used by the nodes of other tests at the same time.
type podNetwork struct {
	*network.Network
	cidrs chan []string
}

func (n podNetwork) Setup(podCIDRs []string) error {
	n.cidrs <- podCIDRs
	return nil
}

// Keep must leave the sandboxes of the other nodes alone.
func (podNetwork) Keep(context.Context, []string) error { return nil }

// node is a server for tests, with clients of it.
type node struct {
	runtimeapi.RuntimeServiceClient
	server *Server // for what CRI has no call for
	images runtimeapi.ImageServiceClient
	root   string
	name   string
	cidrs  chan []string
	tune   func(*Config)
	stop   func()
}

// newNode starts a server of a node of its own; its pods and the server are gone when the test ends.
func newNode(t *testing.T) *node {
	t.Helper()
	if testEngine == nil {
		t.Skip("a Docker Engine needs root")
	}
	root, err := os.MkdirTemp("/tmp", "r")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{root: root, name: strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())), cidrs: make(chan []string, 1), tune: func(*Config) {}}
	n.start(t)
	t.Cleanup(func() {
		ctx := context.Background()
		pods, err := n.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
		if err != nil {
			t.Error(err)
		}
		for _, pod := range pods.GetItems() {
			if _, err := n.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
				t.Error(err)
			}
		}
		n.stop()
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) socket() string { return filepath.Join(n.root, "s") }

// start runs the server; again after stop, it is a server that was restarted.
func (n *node) start(t *testing.T) {
	t.Helper()
	quiet := logrus.New()
	quiet.SetOutput(t.Output())
	config := Config{
		Socket: n.socket(), DockerHost: testEngine.DaemonHost(), Root: n.root, Cluster: testCluster, Node: n.name,
		Network: podNetwork{testPods, n.cidrs}, Log: quiet,
	}
	n.tune(&config)
	server, err := New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.server = server
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	conn, err := grpc.NewClient("unix://"+n.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	n.RuntimeServiceClient, n.images = runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
	n.stop = func() {
		conn.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	}
	if _, err := n.Version(t.Context(), &runtimeapi.VersionRequest{}); err != nil {
		t.Fatal(err)
	}
}

// restart runs a new server in place of this one, set up as tune says.
func (n *node) restart(t *testing.T, tune func(*Config)) {
	t.Helper()
	n.stop()
	n.tune = tune
	n.start(t)
}

func (n *node) podConfig(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: n.name + "-" + name},
		Hostname:     name,
		LogDirectory: filepath.Join(n.root, "logs", name),
		Labels:       map[string]string{"app": name},
		Annotations:  map[string]string{"note": "kept"},
		DnsConfig:    &runtimeapi.DNSConfig{Servers: []string{"10.0.0.10"}, Searches: []string{"svc.cluster.local"}, Options: []string{"ndots:5"}},
		Linux:        &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{}}},
	}
}

func (n *node) runPod(t *testing.T, config *runtimeapi.PodSandboxConfig) string {
	t.Helper()
	r, err := n.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	return r.PodSandboxId
}

// shell is a container that runs a script.
func shell(name, script string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: testImage},
		Command:  []string{"/bin/sh", "-c", script},
		Labels:   map[string]string{"container": name},
		LogPath:  name + "/0.log",
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}},
	}
}

func (n *node) runContainer(t *testing.T, pod string, sandbox *runtimeapi.PodSandboxConfig, config *runtimeapi.ContainerConfig, mounts ...*runtimeapi.Mount) string {
	t.Helper()
	config.Mounts = append(config.Mounts, mounts...)
	r, err := n.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: r.ContainerId}); err != nil {
		t.Fatal(err)
	}
	return r.ContainerId
}

// mountOf is a directory of the host, at /host.
func mountOf(dir string) *runtimeapi.Mount {
	return &runtimeapi.Mount{HostPath: dir, ContainerPath: "/host"}
}

// pid is the container's main process on the host.
func (n *node) pid(t *testing.T, id string) int {
	t.Helper()
	c, err := testEngine.ContainerInspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return c.State.Pid
}

func (n *node) status(t *testing.T, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	r, err := n.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status
}

func (n *node) waitExited(t *testing.T, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	var status *runtimeapi.ContainerStatus
	eventually(t, "the container ends", func() bool {
		status = n.status(t, id)
		return status.State == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	return status
}

// eventually waits for a condition that no one signals.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !holds() {
		if pause(ctx, 20*time.Millisecond) != nil {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func ourLabels(node string) map[string]string {
	return map[string]string{api.DockerLabelFramework: testCluster, api.DockerLabelNode: node}
}

func newHTTPClient(transport http.RoundTripper) *http.Client {
	return &http.Client{Transport: transport}
}
