package cri

import (
	"bytes"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/image"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// isPinned reports whether the kubelet is told to leave an image, by its list and by the image's status.
func (n *node) isPinned(t *testing.T, name string) bool {
	t.Helper()
	one, err := n.images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	must(t, err)
	if one.Image == nil {
		t.Fatalf("there is no image %s", name)
	}
	all, err := n.images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	must(t, err)
	for _, i := range all.Images {
		if i.Id == one.Image.Id && i.Pinned != one.Image.Pinned {
			t.Errorf("%s is pinned in the list: %v, in its status: %v", name, i.Pinned, one.Image.Pinned)
		}
	}
	return one.Image.Pinned
}

// isRefused reports whether the node refuses to remove an image because it is others'.
func (n *node) isRefused(t *testing.T, name string) bool {
	t.Helper()
	_, err := n.images.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	if err != nil && status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the removal of %s ended with %v", name, err)
	}
	return err != nil && strings.Contains(err.Error(), "docker rmi")
}

// dockerPull pulls as others do.
func dockerPull(t *testing.T, name string) {
	t.Helper()
	progress, err := testEngine.ImagePull(t.Context(), name, image.PullOptions{})
	must(t, err)
	_, err = io.Copy(io.Discard, progress)
	must(t, err)
	must(t, progress.Close())
}

func dockerRemove(t *testing.T, name string) {
	t.Helper()
	_, err := testEngine.ImageRemove(t.Context(), name, image.RemoveOptions{})
	must(t, err)
}

func (n *node) idOf(t *testing.T, name string) string {
	t.Helper()
	i, err := testEngine.ImageInspect(t.Context(), name)
	must(t, err)
	return i.ID
}

func TestOnlyImagesThatTheNodePulledAreTheKubeletsToRemove(t *testing.T) {
	n := newNode(t)
	t.Run("pulled", func(t *testing.T) {
		name := newRegistry(t).image()
		must(t, n.pull(t, name, nil))
		if n.isPinned(t, name) {
			t.Error("the kubelet may not remove it")
		}
		n.restart(t, func(*Config) {})
		must(t, n.pull(t, name, nil))
		if n.isPinned(t, name) {
			t.Error("after a restart and another pull the kubelet may not remove it")
		}
		id := n.idOf(t, name)
		n.removeImage(t, id)
		if _, err := testEngine.ImageInspect(t.Context(), id); !isNotFound(err) {
			t.Errorf("it is removed and there: %v", err)
		}
		if files, _ := filepath.Glob(filepath.Join(n.root, "pulled", "*")); len(files) > 0 {
			t.Errorf("files left behind: %v", files)
		}
	})
	t.Run("pulled by its digest", func(t *testing.T) {
		r := newRegistry(t)
		name := strings.TrimSuffix(r.image(), ":1") + "@" + digest(r.manifest)
		must(t, n.pull(t, name, nil))
		if n.isPinned(t, name) || n.isRefused(t, name) {
			t.Error("the kubelet may not remove it")
		}
	})
	t.Run("pulled, and its tag leads to another now", func(t *testing.T) {
		r := newRegistry(t)
		must(t, n.pull(t, r.image(), nil))
		old := n.idOf(t, r.image())
		t.Run("newer", func(t *testing.T) {
			newer := newRegistry(t)
			maps.Copy(r.blobs, newer.blobs)
			r.manifest = newer.manifest
		})
		must(t, n.pull(t, r.image(), nil))
		ids := []string{old, n.idOf(t, r.image())}
		if ids[0] == ids[1] {
			t.Fatal("the tag leads to the same image")
		}
		for _, id := range ids {
			if n.isPinned(t, id) || n.isRefused(t, id) {
				t.Errorf("the kubelet may not remove %s", id)
			}
		}
	})
}

func TestImagesThatOthersHaveTooAreNotTheKubeletsToRemove(t *testing.T) {
	n := newNode(t)
	t.Run("loaded by others", func(t *testing.T) {
		if !n.isPinned(t, testImage) || !n.isRefused(t, testImage) || !n.isRefused(t, n.idOf(t, testImage)) {
			t.Error("the kubelet may remove it")
		}
		n.idOf(t, testImage)
	})
	t.Run("pulled by others before", func(t *testing.T) {
		name := newRegistry(t).image()
		dockerPull(t, name)
		defer dockerRemove(t, name)
		must(t, n.pull(t, name, nil))
		if !n.isPinned(t, name) || !n.isRefused(t, name) {
			t.Error("the kubelet may remove it")
		}
	})
	t.Run("pulled, and others name it too", func(t *testing.T) {
		name, theirs := newRegistry(t).image(), "k8sm.test/theirs:1"
		must(t, n.pull(t, name, nil))
		must(t, testEngine.ImageTag(t.Context(), name, theirs))
		defer dockerRemove(t, theirs)
		if !n.isPinned(t, name) {
			t.Error("the kubelet is to remove what it cannot")
		}
		n.removeImage(t, name)
		i, err := testEngine.ImageInspect(t.Context(), theirs)
		must(t, err)
		if diff := cmp.Diff([]string{theirs}, i.RepoTags); diff != "" {
			t.Errorf("its names (-want +got):\n%s", diff)
		}
		if !n.isPinned(t, theirs) || !n.isRefused(t, theirs) {
			t.Error("the kubelet may remove what is others' now")
		}
	})
	t.Run("pulled, and others remove it and bring it again", func(t *testing.T) {
		name := newRegistry(t).image()
		must(t, n.pull(t, name, nil))
		dockerRemove(t, name)
		_, err := n.images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
		must(t, err)
		dockerPull(t, name)
		defer dockerRemove(t, name)
		if !n.isPinned(t, name) || !n.isRefused(t, name) {
			t.Error("the kubelet may remove it")
		}
	})
}

func TestKilledServersPullsAreFoundOut(t *testing.T) {
	n := newNode(t)
	// kill has a server note a pull and go no further; what happens then, another one has to find out.
	kill := func(t *testing.T, name string, meanwhile func()) {
		t.Helper()
		there, err := testEngine.ImageList(t.Context(), image.ListOptions{})
		must(t, err)
		killed := pulledImages{dir: filepath.Join(n.root, "pulled")}
		_, err = killed.begin(name, name, there)
		must(t, err)
		meanwhile()
		n.restart(t, func(*Config) {})
		if notes, _ := filepath.Glob(filepath.Join(killed.dir, "*"+noteSuffix)); len(notes) > 0 {
			t.Errorf("notes left behind: %v", notes)
		}
	}
	t.Run("the Engine had pulled it", func(t *testing.T) {
		name := newRegistry(t).image()
		kill(t, name, func() { dockerPull(t, name) })
		if n.isPinned(t, name) || n.isRefused(t, name) {
			t.Error("the kubelet may not remove it")
		}
	})
	t.Run("the Engine had it already", func(t *testing.T) {
		name := newRegistry(t).image()
		dockerPull(t, name)
		defer dockerRemove(t, name)
		kill(t, name, func() { dockerPull(t, name) })
		if !n.isPinned(t, name) {
			t.Error("the kubelet may remove it")
		}
	})
	t.Run("the pull broke off, and others loaded it", func(t *testing.T) {
		name := "k8sm.test/loaded:1"
		kill(t, name, func() {
			files, err := tarOf(file{"hello", 0o644, []byte("theirs")})
			must(t, err)
			progress, err := testEngine.ImageImport(t.Context(), image.ImportSource{Source: bytes.NewReader(files), SourceName: "-"}, name, image.ImportOptions{})
			must(t, err)
			_, err = io.Copy(io.Discard, progress)
			must(t, err)
			must(t, progress.Close())
		})
		defer dockerRemove(t, name)
		if !n.isPinned(t, name) {
			t.Error("the kubelet may remove it")
		}
	})
	t.Run("the pull broke off", func(t *testing.T) {
		kill(t, "k8sm.test/none:1", func() {})
		all, err := n.images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
		must(t, err)
		if i := slices.IndexFunc(all.Images, func(i *runtimeapi.Image) bool { return !i.Pinned }); i >= 0 {
			t.Errorf("the kubelet may remove %v", all.Images[i])
		}
	})
}
