package cri

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mirrored is a registry whose folder "hub" stands in for Docker Hub.
type mirrored struct {
	*fakeRegistry
	name, target string // of the image, and where it comes from

	mu    sync.Mutex
	asked []string // paths of manifests
	users []string // names that came with them
}

func newMirror(t *testing.T, n *node) *mirrored {
	t.Helper()
	r := &mirrored{fakeRegistry: newRegistry(t)}
	r.name = "k8sm-test-" + digest(r.manifest)[7:19]
	r.target = r.Listener.Addr().String() + "/hub"
	r.authorized = func(q *http.Request) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		if strings.Contains(q.URL.Path, "/manifests/") {
			user, _, _ := q.BasicAuth()
			r.asked, r.users = append(r.asked, q.URL.Path), append(r.users, user)
		}
		return true
	}
	n.restart(t, func(c *Config) { c.Rewrites = map[string]string{"docker.io": r.target} })
	return r
}

// requests returns the paths of the manifests that the Engine asked for since the last call, each once.
func (r *mirrored) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := slices.Compact(slices.Sorted(slices.Values(r.asked)))
	r.asked = nil
	return asked
}

// known returns the image as the kubelet sees it by a name, and checks that it is listed by that name, too.
func (n *node) known(t *testing.T, name string) *runtimeapi.Image {
	t.Helper()
	one, err := n.images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	must(t, err)
	list, err := n.images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: name}}})
	must(t, err)
	if one.Image == nil && len(list.Images) > 0 || one.Image != nil && (len(list.Images) != 1 || list.Images[0].Id != one.Image.Id) {
		t.Errorf("%s is %v, and listed as %v", name, one.Image, list.Images)
	}
	return one.Image
}

func TestImageFromElsewhereKeepsItsName(t *testing.T) {
	n := newNode(t)
	r := newMirror(t, n)
	tag, sum := r.name+":1", r.name+"@"+digest(r.manifest)
	for _, name := range []string{tag, "docker.io/library/" + tag, "docker.io/" + sum, tag + "@" + digest(r.manifest)} {
		t.Run(name, func(t *testing.T) {
			must(t, n.pull(t, name, nil))
			wanted := "/v2/hub/library/" + r.name + "/manifests/"
			for _, path := range r.requests() {
				if !strings.HasPrefix(path, wanted) {
					t.Errorf("the Engine asked for %s, want %s", path, wanted)
				}
			}
			found := n.known(t, name)
			if found == nil {
				t.Fatal("the kubelet does not find it")
			}
			if !strings.Contains(name, "@") && !slices.Contains(found.RepoTags, tag) || !slices.Contains(found.RepoDigests, sum) {
				t.Errorf("its names are %q and %q", found.RepoTags, found.RepoDigests)
			}
			if n.known(t, sum) == nil || n.isPinned(t, name) {
				t.Error("the kubelet may not remove it")
			}
			n.restart(t, n.tune)
			for _, by := range []string{name, found.Id} {
				if n.isRefused(t, by) {
					t.Errorf("it cannot be removed by %s", by)
				}
				if left := n.known(t, name); left != nil {
					t.Errorf("removed by %s, it is there: %v", by, left)
				}
				must(t, n.pull(t, name, nil))
			}
			n.removeImage(t, name)
			left, err := testEngine.ImageList(t.Context(), image.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("reference", r.target+"/*/*"))})
			if err != nil || len(left) > 0 {
				t.Errorf("the Engine keeps %v, %v", left, err)
			}
		})
	}
}

func TestImageOfOthersStaysTheirsWhenItIsPulledFromElsewhere(t *testing.T) {
	n := newNode(t)
	r := newMirror(t, n)
	theirs := r.target + "/library/" + r.name + ":1"
	dockerPull(t, theirs)
	defer dockerRemove(t, theirs)
	sum := r.name + "@" + digest(r.manifest)
	must(t, n.pull(t, sum, nil))
	if n.known(t, sum) == nil {
		t.Error("the kubelet does not find it")
	}
	if !n.isPinned(t, sum) || !n.isRefused(t, sum) {
		t.Error("the kubelet may remove it")
	}
}

func TestContainerRunsAnImageNamedByADigestFromElsewhere(t *testing.T) {
	n := newNode(t)
	r := newMirror(t, n)
	sum := r.name + "@" + digest(r.manifest)
	must(t, n.pull(t, sum, nil))
	config := n.podConfig("web")
	pod := n.runPod(t, config)
	container := shell("web", "")
	container.Image.Image = sum
	_, err := n.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: container, SandboxConfig: config})
	must(t, err)
	_, err = n.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod})
	must(t, err)
	n.removeImage(t, sum)
}

func TestOtherRegistriesAreAskedUnderTheirNames(t *testing.T) {
	n := newNode(t)
	r := newMirror(t, n)
	address := r.Listener.Addr().String()
	must(t, n.pull(t, address+"/team/"+r.name+":1", nil))
	if asked := r.requests(); len(asked) == 0 || !strings.HasPrefix(asked[0], "/v2/team/") {
		t.Errorf("the Engine asked for %q", asked)
	}
	n.removeImage(t, address+"/team/"+r.name+":1")
	// A rewrite whose target is rewritten, which MinionConfig.Validate refuses, must not go in circles.
	n.restart(t, func(c *Config) { c.Rewrites = map[string]string{"docker.io": r.target, address: "docker.io/library"} })
	must(t, n.pull(t, r.name+":1", nil))
	n.removeImage(t, r.name+":1")
}

func TestPullFailsWithTheRegistryThatStandsIn(t *testing.T) {
	n := newNode(t)
	r := newMirror(t, n)
	r.Close()
	name := r.name + ":1"
	if err := n.pull(t, name, nil); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("cannot pull %s from %s/library/%s: ", name, r.target, name)) {
		t.Errorf("got %v", err)
	}
	if n.known(t, name) != nil {
		t.Error("the image is there")
	}
}

func TestCredentialsForTheNameComeBeforeTheNodes(t *testing.T) {
	n := newNode(t)
	r := newMirror(t, n)
	credentials := filepath.Join(n.root, "config.json")
	n.restart(t, func(c *Config) { c.Rewrites, c.Credentials = map[string]string{"docker.io": r.target}, credentials })
	allowed := ""
	note := r.authorized
	r.challenge = `Basic realm="test"`
	r.authorized = func(q *http.Request) bool {
		note(q)
		user, _, _ := q.BasicAuth()
		return user == allowed
	}
	given := &runtimeapi.AuthConfig{Username: "pods", Password: "p"}
	config := fmt.Sprintf(`{"auths": {%q: {"username": "nodes", "password": "p"}, "docker.io": {"username": "wrong", "password": "p"}}}`, r.target)
	for _, c := range []struct {
		what, config, allowed string
		given                 *runtimeapi.AuthConfig
		want                  []string // user names that came, or nil for a failure
	}{
		{"the pod's", config, "pods", given, []string{"pods"}},
		{"the node's after the pod's", config, "nodes", given, []string{"nodes", "pods"}},
		{"the node's alone", config, "nodes", nil, []string{"nodes"}},
		{"none fits", config, "other", given, nil},
		{"no file", "", "nodes", nil, nil},
		{"a broken file", "{", "nodes", nil, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			_ = os.Remove(credentials)
			if c.config != "" {
				must(t, os.WriteFile(credentials, []byte(c.config), 0o600))
			}
			r.mu.Lock()
			allowed, r.users = c.allowed, nil
			r.mu.Unlock()
			err := n.pull(t, r.name+":1", c.given)
			if c.want == nil {
				if err == nil || !strings.Contains(err.Error(), "cannot pull "+r.name+":1 from "+r.target) {
					t.Errorf("got %v", err)
				}
				return
			}
			must(t, err)
			r.mu.Lock()
			came := slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(r.users))), func(user string) bool { return user == "" })
			r.mu.Unlock()
			if diff := cmp.Diff(c.want, came); diff != "" {
				t.Errorf("the registry saw (-want +got):\n%s", diff)
			}
			n.removeImage(t, r.name+":1")
		})
	}
}

func TestKilledServersPullFromElsewhereIsFoundOut(t *testing.T) {
	n := newNode(t)
	r := newMirror(t, n)
	name := r.name + ":1"
	pulled := r.target + "/library/" + name
	there, err := testEngine.ImageList(t.Context(), image.ListOptions{})
	must(t, err)
	killed := pulledImages{dir: filepath.Join(n.root, "pulled")}
	_, err = killed.begin(name, pulled, there)
	must(t, err)
	dockerPull(t, pulled)
	n.restart(t, n.tune)
	if n.isPinned(t, pulled) || n.isRefused(t, pulled) {
		t.Error("the kubelet may not remove it")
	}
}
