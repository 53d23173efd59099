package commit

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/client"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/cgroups"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	kubetypes "k8s.io/kubelet/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/commit"
	"github.com/k8sm/k8sm/api/heldport"
	"github.com/k8sm/k8sm/contrib/test/suite"
	"github.com/k8sm/k8sm/contrib/up/engine"
)

const (
	testImage   = "k8sm.test/commit:1"
	testCluster = "commit-test"
	testNode    = "node-1"
	secretValue = "a-value-that-no-image-may-have"
)

// The Engine and the registry of this package's tests; nil without root.
var (
	testEngine   *client.Client
	testRegistry *suite.Registry
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
	if os.Geteuid() != 0 {
		return m.Run(), nil
	}
	ctx := context.Background()
	dir, err := os.MkdirTemp("/tmp", "m")
	if err != nil {
		return 1, err
	}
	e, err := engine.Start(ctx, engine.Config{Dir: dir})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, e.Stop(ctx), os.RemoveAll(dir)) }()
	if testEngine, err = client.NewClientWithOpts(client.WithHost(e.Host()), client.WithAPIVersionNegotiation()); err != nil {
		return 1, err
	}
	defer testEngine.Close()
	if err := importBase(ctx); err != nil {
		return 1, err
	}
	if testRegistry, err = suite.StartRegistry(ctx, "../../build/docker-registry", dir, filepath.Join(dir, "registry.log")); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, testRegistry.Stop()) }()
	return m.Run(), nil
}

// importBase makes the image that the tests' containers run, with a configuration of its own.
func importBase(ctx context.Context) error {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("the tests need busybox-static: %w", err)
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	for name, content := range map[string][]byte{"bin/busybox": busybox, "old": []byte("old")} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	answer, err := testEngine.ImageImport(ctx, image.ImportSource{Source: &files, SourceName: "-"}, testImage, image.ImportOptions{Changes: []string{
		`ENTRYPOINT ["/bin/busybox"]`, `CMD ["sleep", "1000"]`, "ENV BASE=own", "LABEL base=own", "EXPOSE 80", "WORKDIR /", "USER 0:0"}})
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, answer)
	return errors.Join(err, answer.Close())
}

// node is a running controller with an API of its own.
type node struct {
	Config
	pod *corev1.Pod
	id  string // of the pod's container
}

// start runs a container of a pod, and the node that commits it.
func start(t testing.TB, change ...func(*Config)) *node {
	t.Helper()
	if testEngine == nil {
		t.Skip("only root can run Docker Engine")
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: types.UID(fmt.Sprintf("uid-%d", time.Now().UnixNano()))},
		Spec:       corev1.PodSpec{NodeName: testNode, Containers: []corev1.Container{{Name: "main", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	scheme := runtime.NewScheme()
	n := &node{pod: pod, Config: Config{
		Cluster: testCluster, Node: testNode, Dir: filepath.Join(t.TempDir(), "commits"), Docker: testEngine, Log: logrus.New(),
		Kubernetes: fake.NewClientset(pod),
		Objects:    dynamicfake.NewSimpleDynamicClientWithCustomListKinds(scheme, map[schema.GroupVersionResource]string{commit.Resource: "CommitList"}),
	}}
	for _, c := range change {
		c(&n.Config)
	}
	n.id = runContainer(t, pod)
	return n
}

// serve runs the controller until the test ends, or until the returned function is called.
func (n *node) serve(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, n.Config) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func runContainer(t testing.TB, pod *corev1.Pod) string {
	t.Helper()
	c, err := testEngine.ContainerCreate(t.Context(), &container.Config{
		Image: testImage, Env: []string{"PASSWORD=" + secretValue},
		Entrypoint: []string{"/bin/busybox"}, Cmd: []string{"sh", "-c", ": " + secretValue + "; echo new >/new; /bin/busybox rm /old; echo no >/data/no; /bin/busybox sleep 1000"},
		Labels: map[string]string{
			api.DockerLabelFramework: testCluster, api.DockerLabelNode: testNode, "io.k8sm.kind": "container", "io.k8sm.record": secretValue,
			kubetypes.KubernetesPodUIDLabel: string(pod.UID), kubetypes.KubernetesContainerNameLabel: "main",
		},
	}, &container.HostConfig{NetworkMode: "none", Mounts: []mount.Mount{{Type: mount.TypeBind, Source: t.TempDir(), Target: "/data"}}}, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = testEngine.ContainerRemove(context.Background(), c.ID, container.RemoveOptions{Force: true})
	})
	if err := testEngine.ContainerStart(t.Context(), c.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, func() error {
		changes, err := testEngine.ContainerDiff(t.Context(), c.ID)
		if err == nil && !slices.ContainsFunc(changes, func(c container.FilesystemChange) bool { return c.Path == "/old" }) {
			err = errors.New("the container has not deleted /old")
		}
		return err
	})
	return c.ID
}

// run starts a shell script in a container, and waits until it has ended.
func run(t testing.TB, id, script string) {
	t.Helper()
	exec, err := testEngine.ContainerExecCreate(t.Context(), id, container.ExecOptions{Cmd: []string{"/bin/busybox", "sh", "-c", script}})
	if err == nil {
		err = testEngine.ContainerExecStart(t.Context(), exec.ID, container.ExecStartOptions{Detach: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() error {
		info, err := testEngine.ContainerExecInspect(t.Context(), exec.ID)
		if err == nil && (info.Running || info.ExitCode != 0) {
			err = fmt.Errorf("it runs: %v, exit code %d", info.Running, info.ExitCode)
		}
		return err
	})
}

// await waits until check has no complaint.
func await(t testing.TB, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// ask creates a Commit of the pod's container.
func (n *node) ask(t testing.TB, uid, image string, change ...func(*commit.Spec)) commit.Commit {
	t.Helper()
	c := commit.Commit{
		ObjectMeta: metav1.ObjectMeta{Name: uid, Namespace: "default", UID: types.UID(uid), CreationTimestamp: metav1.Now()},
		Spec:       commit.Spec{NodeName: testNode, PodName: n.pod.Name, PodUID: n.pod.UID, Container: "main", Image: image},
	}
	for _, change := range change {
		change(&c.Spec)
	}
	object, err := c.Object()
	if err == nil {
		_, err = n.Objects.Resource(commit.Resource).Namespace("default").Create(t.Context(), object, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// becomes waits until the Commit has the phase and a message.
func (n *node) becomes(t *testing.T, c commit.Commit, phase commit.Phase, message string) commit.Commit {
	t.Helper()
	var now commit.Commit
	await(t, func() error {
		object, err := n.Objects.Resource(commit.Resource).Namespace("default").Get(t.Context(), c.Name, metav1.GetOptions{})
		if err == nil {
			now, err = commit.Read(object)
		}
		if err == nil && (now.Status.Phase != phase || !strings.Contains(now.Status.Message, message)) {
			err = fmt.Errorf("it is %+v, want %s with %q", now.Status, phase, message)
		}
		return err
	})
	return now
}

// leftNothing checks that nothing of a Commit is on the machine.
func (n *node) leftNothing(t *testing.T) {
	t.Helper()
	await(t, func() error {
		entries, err := os.ReadDir(n.Dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if len(entries) > 0 {
			return fmt.Errorf("%s has %v", n.Dir, entries)
		}
		images, err := testEngine.ImageList(t.Context(), image.ListOptions{All: true})
		for _, i := range images {
			if !slices.Contains(i.RepoTags, testImage) {
				return fmt.Errorf("the Engine has image %v", i.RepoTags)
			}
		}
		c, inspectErr := testEngine.ContainerInspect(t.Context(), n.id)
		if inspectErr == nil && !c.State.Running {
			return fmt.Errorf("the container is %s", c.State.Status)
		}
		if inspectErr == nil {
			inspectErr = frozen(n.id, c.State.Pid)
		}
		return errors.Join(err, inspectErr)
	})
}

// frozen fails if a container's processes are stopped.
func frozen(id string, pid int) error {
	f, err := freezerOf(id, pid)
	if err != nil {
		return err
	}
	m, err := f.manager()
	if err != nil {
		return err
	}
	if state, err := m.GetFreezerState(); err != nil || state != cgroups.Thawed {
		return fmt.Errorf("the container is %s: %v", state, err)
	}
	return nil
}

// pushed reads an image from the registry.
func pushed(t *testing.T, image string) v1.Image {
	t.Helper()
	ref, err := name.ParseReference(image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	i, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// texts returns everything of an image: its manifest, its configuration and its files.
func texts(t *testing.T, i v1.Image) (all []byte, files map[string]string) {
	t.Helper()
	manifest, err := i.RawManifest()
	config, configErr := i.RawConfigFile()
	layers, layersErr := i.Layers()
	if err := errors.Join(err, configErr, layersErr); err != nil {
		t.Fatal(err)
	}
	all, files = slices.Concat(manifest, config), map[string]string{}
	for at, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		all = append(all, content...)
		for archive := tar.NewReader(bytes.NewReader(content)); ; {
			header, err := archive.Next()
			if err != nil {
				break
			}
			text, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			files[fmt.Sprintf("%d:%s", at, header.Name)] = string(text)
		}
	}
	return all, files
}

func TestCommittedImageHasTheFilesAndTheBaseConfiguration(t *testing.T) {
	for name, change := range map[string]func(*Config){"copied": func(*Config) {}, "by the Engine": func(c *Config) { c.engineOnly = true }} {
		t.Run(name, func(t *testing.T) {
			hasFilesAndBaseConfiguration(t, start(t, change))
			committedImageRuns(t, testRegistry.Address+"/shop-web:1")
		})
	}
}

func hasFilesAndBaseConfiguration(t *testing.T, n *node) {
	n.serve(t)
	image := testRegistry.Address + "/shop-web:1"
	c := n.becomes(t, n.ask(t, "one", image), commit.Succeeded, "not in the image, because they are volumes: data (/data)")
	n.leftNothing(t)
	i := pushed(t, image)
	if digest, err := i.Digest(); err != nil || digest.String() != c.Status.Digest {
		t.Errorf("the registry has %s, %v; the status says %s", digest, err, c.Status.Digest)
	}
	all, files := texts(t, i)
	for _, word := range []string{secretValue, "io.k8sm", "PASSWORD"} {
		if bytes.Contains(all, []byte(word)) {
			t.Errorf("the image has %q", word)
		}
	}
	if _, deleted := files["1:.wh.old"]; files["1:new"] != "new\n" || !deleted || files["1:data/no"] != "" || files["0:old"] != "old" {
		t.Errorf("its files are %v", files)
	}
	config, err := i.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	base, err := testEngine.ImageInspect(t.Context(), testImage)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := json.Marshal(base.Config)
	got, _ := json.Marshal(config.Config)
	if !equalJSON(want, got) || !bytes.Contains(got, []byte("BASE=own")) {
		t.Errorf("its configuration is %s, want that of its base, %s", got, want)
	}
	if last := config.History[len(config.History)-1]; len(config.History) != 2 || last.CreatedBy != "km commit" {
		t.Errorf("its history is %+v", config.History)
	}
	await(t, func() error {
		events, err := n.Kubernetes.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err == nil && (len(events.Items) != 1 || events.Items[0].Reason != "Committed" || events.Items[0].InvolvedObject.UID != n.pod.UID ||
			!strings.Contains(events.Items[0].Message, c.Status.Digest)) {
			err = fmt.Errorf("events: %+v", events.Items)
		}
		return err
	})
}

func equalJSON(a, b []byte) bool {
	compact := func(text []byte) map[string]any {
		var m map[string]any
		_ = json.Unmarshal(text, &m)
		for key, value := range m {
			if value == nil || value == "" || value == false {
				delete(m, key)
			}
		}
		return m
	}
	x, _ := json.Marshal(compact(a))
	y, _ := json.Marshal(compact(b))
	return bytes.Equal(x, y)
}

func committedImageRuns(t *testing.T, committed string) {
	t.Helper()
	progress, err := testEngine.ImagePull(t.Context(), committed, image.PullOptions{})
	if err == nil {
		_, err = io.Copy(io.Discard, progress)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = testEngine.ImageRemove(context.Background(), committed, image.RemoveOptions{Force: true})
	})
	c, err := testEngine.ContainerCreate(t.Context(), &container.Config{Image: committed, Cmd: []string{"grep", "new", "/new"}}, &container.HostConfig{NetworkMode: "none"}, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = testEngine.ContainerRemove(context.Background(), c.ID, container.RemoveOptions{Force: true})
	})
	ended, failed := testEngine.ContainerWait(t.Context(), c.ID, container.WaitConditionNextExit)
	if err := testEngine.ContainerStart(t.Context(), c.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-ended:
		if e.StatusCode != 0 {
			t.Errorf("exit status %d: the file is not there", e.StatusCode)
		}
	case err := <-failed:
		t.Error(err)
	}
}

// The layers of an image that came from the registry are not sent there again: they are mounted from one repository to the other.
func TestBaseOfTheSameRegistryIsNotSentAgain(t *testing.T) {
	n := start(t)
	base := testRegistry.Address + "/base:1"
	if err := testEngine.ImageTag(t.Context(), testImage, base); err != nil {
		t.Fatal(err)
	}
	if _, err := suite.Push(t.Context(), testEngine, base); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = testEngine.ImageRemove(context.Background(), base, image.RemoveOptions{}) })
	a := attempt{Config: n.Config, commit: n.ask(t, "mounted", testRegistry.Address+"/mounted:1"), log: n.Log}
	to, err := a.destination(t.Context(), nil)
	if err == nil {
		err = errors.Join(a.find(t.Context()), a.checkRoom(t.Context()))
	}
	if err != nil {
		t.Fatal(err)
	}
	made, _, err := a.image(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(a.dir(), "image.tar")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the base was saved: %v", err)
	}
	if _, err := a.push(t.Context(), to, made); err != nil {
		t.Fatal(err)
	}
	_, files := texts(t, pushed(t, testRegistry.Address+"/mounted:1"))
	if files["0:old"] != "old" || files["1:new"] != "new\n" {
		t.Errorf("its files are %v", files)
	}
	if err := n.tidy(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCommitThatCannotBeIsFailedAndSaysWhy(t *testing.T) {
	n := start(t)
	n.serve(t)
	for want, change := range map[string]func(*commit.Spec){
		"pod default/gone with the UID":   func(s *commit.Spec) { s.PodName = "gone" },
		"with the UID other is gone":      func(s *commit.Spec) { s.PodUID = "other" },
		"has no container side":           func(s *commit.Spec) { s.Container = "side" },
		"give REGISTRY/NAME:TAG":          func(s *commit.Spec) { s.Image = "web" },
		"cannot use secret default/plain": func(s *commit.Spec) { s.PushSecret = "plain" },
		"has no credentials for image":    func(s *commit.Spec) { s.PushSecret = "elsewhere" },
	} {
		_, _ = n.Kubernetes.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "plain", Namespace: "default"}}, metav1.CreateOptions{})
		_, _ = n.Kubernetes.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "elsewhere", Namespace: "default"}, Type: corev1.SecretTypeDockerConfigJson,
			Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{"elsewhere.example":{"auth":"YTpi"}}}`)},
		}, metav1.CreateOptions{})
		c := n.ask(t, fmt.Sprintf("fails-%x", []byte(want)), testRegistry.Address+"/web:1", change)
		n.becomes(t, c, commit.Failed, want)
	}
	n.leftNothing(t)
}

func TestCommitWithoutRoomIsFailed(t *testing.T) {
	n := start(t, func(c *Config) { c.KeepFree = "100%" })
	n.serve(t)
	c := n.becomes(t, n.ask(t, "big", testRegistry.Address+"/big:1"), commit.Failed, "no room on node node-1: the image needs")
	n.leftNothing(t)
	events, err := n.Kubernetes.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(events.Items) != 1 || events.Items[0].Reason != "CommitFailed" || !strings.Contains(events.Items[0].Message, c.Status.Message) {
		t.Errorf("events: %+v, %v", events.Items, err)
	}
}

// front is a registry's address that can be shut, or hang.
func front(t *testing.T, listener net.Listener, hang <-chan struct{}) {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: testRegistry.Address})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hang != nil && r.Method != http.MethodGet {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
			return
		}
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

func TestCommitWaitsForARegistryThatIsAway(t *testing.T) {
	n := start(t)
	n.serve(t)
	address := fmt.Sprintf("127.0.0.1:%d", heldport.OfTest(t))
	c := n.ask(t, "waits", address+"/waits:1")
	n.becomes(t, c, commit.Running, "trying again: cannot push")
	n.leftNothing(t)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	front(t, listener, nil)
	n.becomes(t, c, commit.Succeeded, "")
	n.leftNothing(t)
}

func TestDeletedCommitIsGivenUp(t *testing.T) {
	n := start(t)
	n.serve(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front(t, listener, make(chan struct{}))
	c := n.ask(t, "deleted", listener.Addr().String()+"/deleted:1")
	n.becomes(t, c, commit.Running, "pushing the image")
	if err := n.Objects.Resource(commit.Resource).Namespace("default").Delete(t.Context(), c.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.leftNothing(t)
	n.becomes(t, n.ask(t, "after", testRegistry.Address+"/after:1"), commit.Succeeded, "")
}

// What a killed minion leaves: the image, the directory and a frozen container.
func TestCommitBegunByAKilledMinionIsDoneAgain(t *testing.T) {
	n := start(t, func(c *Config) { c.engineOnly = true })
	c := n.ask(t, "again", testRegistry.Address+"/again:1")
	a := attempt{Config: n.Config, commit: c, log: n.Log}
	if err := a.find(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.image(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	f, err := freezerOf(n.id, a.container.State.Pid)
	if err == nil {
		err = f.freeze()
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := n.ask(t, "ended", testRegistry.Address+"/ended:1")
	patch := []byte(`{"status":{"phase":"Succeeded","digest":"sha256:old"}}`)
	if _, err := n.Objects.Resource(commit.Resource).Namespace("default").Patch(t.Context(), ended.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	n.serve(t)
	n.becomes(t, c, commit.Succeeded, "")
	n.leftNothing(t)
	if ended = n.becomes(t, ended, commit.Succeeded, ""); ended.Status.Digest != "sha256:old" {
		t.Errorf("what had ended was done again: %+v", ended.Status)
	}
}

// An exec that starts when a container is paused by Docker Engine makes it unable to unpause it.
func TestProbesDoNotKeepAContainerFrozen(t *testing.T) {
	n := start(t)
	n.serve(t)
	ctx, stop := context.WithCancel(t.Context())
	var probes sync.WaitGroup
	defer probes.Wait()
	defer stop()
	for range 4 {
		probes.Go(func() {
			for ctx.Err() == nil {
				exec, err := testEngine.ContainerExecCreate(ctx, n.id, container.ExecOptions{Cmd: []string{"/bin/busybox", "true"}})
				if err == nil {
					_ = testEngine.ContainerExecStart(ctx, exec.ID, container.ExecStartOptions{}) // it fails in the pause
				}
			}
		})
	}
	for i := range 5 {
		n.becomes(t, n.ask(t, fmt.Sprintf("probed-%d", i), fmt.Sprintf("%s/probed:%d", testRegistry.Address, i)), commit.Succeeded, "")
	}
	n.leftNothing(t)
}

func TestOnlyContainersAreFrozen(t *testing.T) {
	if f, err := freezerOf("0123456789abcdef", os.Getpid()); err == nil {
		t.Errorf("the test itself would be frozen by %s", f)
	}
}

func TestStoppedControllerLeavesNoPausedContainer(t *testing.T) {
	n := start(t)
	stop := n.serve(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front(t, listener, make(chan struct{}))
	n.becomes(t, n.ask(t, "stopped", listener.Addr().String()+"/stopped:1"), commit.Running, "pushing the image")
	stop()
	n.leftNothing(t)
}

func TestNothingIsSentInClearUnlessTheEngineDoes(t *testing.T) {
	server := http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked") })}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	c, err := newCarrier(listener.Addr().String(), false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = (&http.Client{Transport: c}).Get("http://" + listener.Addr().String() + "/v2/")
	if err == nil || !strings.Contains(err.Error(), "insecure-registries") {
		t.Errorf("got %v", err)
	}
}

func TestKeepFreeIsAQuantityOrAPercentage(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "10%": 100, "12.5%": 125, "1Ki": 1024, "0": 0} {
		if got, err := keepFree(text, 1000); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	if _, err := keepFree("some", 1000); err == nil {
		t.Error("a word is taken")
	}
}

func TestFailuresOfTheAPIAreTriedAgain(t *testing.T) {
	for _, err := range []error{apierrors.NewServiceUnavailable("no"), errors.New("connection refused")} {
		if errors.As(err, new(finalError)) || noRoom(err) {
			t.Errorf("%v is final", err)
		}
	}
	if !noRoom(errors.New("Error response from daemon: write /x: no space left on device")) {
		t.Error("a full disk is not noticed")
	}
}

// BenchmarkPause measures how long a container with 1 GB of changes is paused: with the copy that is made while it runs, and with an
// image that Docker Engine makes. A program in the container rewrites a file of 20 MB meanwhile.
func BenchmarkPause(b *testing.B) {
	for _, by := range []string{"copy", "engine"} {
		b.Run(by, func(b *testing.B) {
			n := start(b, func(c *Config) { c.engineOnly = by == "engine" })
			run(b, n.id, "/bin/busybox dd if=/dev/urandom of=/big bs=1M count=1000 2>/dev/null")
			writer, err := testEngine.ContainerExecCreate(b.Context(), n.id, container.ExecOptions{
				Cmd: []string{"/bin/busybox", "sh", "-c", "while :; do /bin/busybox dd if=/big of=/busy bs=1M count=20 2>/dev/null; /bin/busybox sleep 0.2; done"},
			})
			if err == nil {
				err = testEngine.ContainerExecStart(b.Context(), writer.ID, container.ExecStartOptions{Detach: true})
			}
			if err != nil {
				b.Fatal(err)
			}
			c := n.ask(b, "big", testRegistry.Address+"/big:1")
			var most time.Duration
			for b.Loop() {
				a := attempt{Config: n.Config, commit: c, log: n.Log}
				if err := a.find(b.Context()); err != nil {
					b.Fatal(err)
				}
				to, err := a.destination(b.Context(), nil)
				if err := errors.Join(err, a.checkRoom(b.Context())); err != nil {
					b.Fatal(err)
				}
				_, paused, err := a.image(b.Context(), to)
				if err := errors.Join(err, a.tidy(b.Context())); err != nil {
					b.Fatal(err)
				}
				most = max(most, paused)
			}
			b.ReportMetric(float64(most.Microseconds())/1000, "pause-ms")
		})
	}
}
