package cri

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/k8sm/k8sm/api/heldport"
)

// fakeRegistry serves one image to those who show the right credentials
// (https://distribution.github.io/distribution/spec/api/).
type fakeRegistry struct {
	*httptest.Server
	blobs      map[string][]byte // by digest
	manifest   []byte
	challenge  string // how to authenticate, "" for not at all
	authorized func(*http.Request) bool
	stall      chan struct{} // if not nil, layers stay incomplete until it is closed
}

const (
	manifestType = "application/vnd.docker.distribution.manifest.v2+json"
	configType   = "application/vnd.docker.container.image.v1+json"
	layerType    = "application/vnd.docker.image.rootfs.diff.tar"
)

func newRegistry(t *testing.T) *fakeRegistry {
	t.Helper()
	layer, err := tarOf(file{"hello", 0o644, []byte(t.Name())}) // so that no test finds another's layer there
	must(t, err)
	config, err := json.Marshal(map[string]any{"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}}})
	must(t, err)
	r := &fakeRegistry{blobs: map[string][]byte{digest(layer): layer, digest(config): config}}
	r.manifest, err = json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestType,
		"config": map[string]any{"mediaType": configType, "size": len(config), "digest": digest(config)},
		"layers": []any{map[string]any{"mediaType": layerType, "size": len(layer), "digest": digest(layer)}}})
	must(t, err)
	r.Server = httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.Close)
	return r
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// image is the name under which the image is pulled.
func (r *fakeRegistry) image() string { return r.Listener.Addr().String() + "/hello:1" }

func (r *fakeRegistry) serve(w http.ResponseWriter, q *http.Request) {
	if q.URL.Path == "/token" {
		r.serveToken(w, q)
		return
	}
	if r.authorized != nil && !r.authorized(q) {
		w.Header().Set("WWW-Authenticate", r.challenge)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`, http.StatusUnauthorized)
		return
	}
	name := filepath.Base(q.URL.Path)
	switch {
	case q.URL.Path == "/v2/":
	case strings.Contains(q.URL.Path, "/manifests/"):
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Docker-Content-Digest", digest(r.manifest))
		_, _ = w.Write(r.manifest)
	case r.blobs[name] == nil:
		http.NotFound(w, q)
	default:
		r.serveBlob(w, q, r.blobs[name])
	}
}

func (r *fakeRegistry) serveBlob(w http.ResponseWriter, q *http.Request, blob []byte) {
	w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
	_, _ = w.Write(blob[:len(blob)/2])
	if r.stall != nil {
		w.(http.Flusher).Flush()
		select {
		case <-r.stall:
		case <-q.Context().Done():
		}
	}
	_, _ = w.Write(blob[len(blob)/2:])
}

// serveToken gives an access token for the refresh token "refresh" (https://distribution.github.io/distribution/spec/auth/oauth/).
func (r *fakeRegistry) serveToken(w http.ResponseWriter, q *http.Request) {
	if q.PostFormValue("grant_type") != "refresh_token" || q.PostFormValue("refresh_token") != "refresh" {
		http.Error(w, "no such refresh token", http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"access_token":"access","expires_in":300,"scope":""}`)
}

// removeImage removes what was pulled, so that the next pull begins anew.
func (n *node) removeImage(t *testing.T, name string) {
	t.Helper()
	_, err := n.images.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	must(t, err)
}

func (n *node) pull(t *testing.T, name string, auth *runtimeapi.AuthConfig) error {
	t.Helper()
	r, err := n.images.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}, Auth: auth})
	if err == nil && r.ImageRef == "" {
		t.Errorf("%s was pulled and has no id", name)
	}
	return err
}

func TestEachKindOfCredentialsReachesTheRegistry(t *testing.T) {
	n := newNode(t)
	basic := func(r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		return user == "jo" && password == "secret"
	}
	bearer := func(token string) func(*http.Request) bool {
		return func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer "+token }
	}
	for name, c := range map[string]struct {
		authorized func(*http.Request) bool
		basic      bool
		right      *runtimeapi.AuthConfig
		wrong      *runtimeapi.AuthConfig
	}{
		"user and password":       {basic, true, &runtimeapi.AuthConfig{Username: "jo", Password: "secret"}, &runtimeapi.AuthConfig{Username: "jo", Password: "guess"}},
		"auth of a docker config": {basic, true, &runtimeapi.AuthConfig{Auth: base64.StdEncoding.EncodeToString([]byte("jo:secret"))}, nil},
		"identity token":          {bearer("access"), false, &runtimeapi.AuthConfig{IdentityToken: "refresh"}, &runtimeapi.AuthConfig{IdentityToken: "stale"}},
		"registry token":          {bearer("given"), false, &runtimeapi.AuthConfig{RegistryToken: "given"}, &runtimeapi.AuthConfig{RegistryToken: "stolen"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			r.authorized, r.challenge = c.authorized, `Basic realm="test"`
			if !c.basic {
				r.challenge = fmt.Sprintf(`Bearer realm="%s/token",service="test"`, r.URL)
			}
			if err := n.pull(t, r.image(), c.wrong); err == nil || !strings.Contains(err.Error(), "cannot pull "+r.image()) {
				t.Errorf("with wrong credentials the pull ended with %v", err)
			}
			if err := n.pull(t, r.image(), c.right); err != nil {
				t.Fatal(err)
			}
			n.removeImage(t, r.image())
		})
	}
}

func TestPullIsGivenUpOnlyWhenItMakesNoProgress(t *testing.T) {
	n := newNode(t)
	n.restart(t, func(c *Config) { c.PullTimeout = time.Second })
	r := newRegistry(t)
	r.stall = make(chan struct{})
	err := n.pull(t, r.image(), nil)
	if err == nil || !strings.Contains(err.Error(), "no progress for 1s, downloaded 0.0 of 0.0 MB") {
		t.Errorf("a pull from a registry that stalls ended with %v", err)
	}
	close(r.stall)
	if err := n.pull(t, r.image(), nil); err != nil {
		t.Error(err)
	}
	n.removeImage(t, r.image())
}

// Debian's docker-registry with users in an htpasswd file.
func TestPrivateImageIsPulledFromARealRegistryWithItsUsersPasswordOnly(t *testing.T) {
	const program = "../../build/docker-registry"
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("the test needs an image registry, which make test-deps brings: %v", err)
	}
	n := newNode(t)
	address := startRegistry(t, program, n.root)
	name := address + "/private:1"
	must(t, testEngine.ImageTag(t.Context(), testImage, name))
	auth, err := registry.EncodeAuthConfig(registry.AuthConfig{Username: "jo", Password: "secret"})
	must(t, err)
	pushed, err := testEngine.ImagePush(t.Context(), name, image.PushOptions{RegistryAuth: auth})
	must(t, err)
	_, err = io.Copy(io.Discard, pushed)
	must(t, err)
	must(t, pushed.Close())
	_, err = testEngine.ImageRemove(t.Context(), name, image.RemoveOptions{})
	must(t, err)

	for _, wrong := range []*runtimeapi.AuthConfig{nil, {Username: "jo", Password: "guess"}} {
		if err := n.pull(t, name, wrong); err == nil || !strings.Contains(err.Error(), "no basic auth credentials") && !strings.Contains(err.Error(), "unauthorized") {
			t.Errorf("a pull with %v ended with %v", wrong, err)
		}
	}
	if err := n.pull(t, name, &runtimeapi.AuthConfig{Username: "jo", Password: "secret"}); err != nil {
		t.Error(err)
	}
	_, err = testEngine.ImageRemove(t.Context(), name, image.RemoveOptions{})
	must(t, err)
}

// startRegistry runs a registry whose only user is jo with the password "secret".
func startRegistry(t *testing.T, program, dir string) (address string) {
	t.Helper()
	address = net.JoinHostPort("127.0.0.1", fmt.Sprint(heldport.OfTest(t)))
	users, config := filepath.Join(dir, "htpasswd"), filepath.Join(dir, "registry.yml")
	// bcrypt of "secret", as htpasswd -nbB makes it
	must(t, os.WriteFile(users, []byte("jo:$2y$04$.9Bcu8SIeDgjnbCFViG7hu1Cyf9eZIRH5YlJBlRVCNG8uliq0lPPK\n"), 0o600))
	must(t, os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\nauth: {htpasswd: {realm: test, path: %s}}\n",
		filepath.Join(dir, "registry"), address, users), 0o600))
	command := exec.Command(program, "serve", config)
	command.Stdout, command.Stderr = t.Output(), t.Output()
	must(t, command.Start())
	t.Cleanup(func() {
		must(t, command.Process.Kill())
		_ = command.Wait()
	})
	eventually(t, "the registry listens", func() bool {
		conn, err := net.Dial("tcp", address)
		return err == nil && conn.Close() == nil
	})
	return address
}
