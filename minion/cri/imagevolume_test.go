package cri

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func imageMount(sub string) *runtimeapi.Mount {
	return &runtimeapi.Mount{ContainerPath: "/vol", Image: &runtimeapi.ImageSpec{Image: testImage}, ImageSubPath: sub, Readonly: true}
}

func TestImageIsMountedReadOnlyWhileAContainerHasIt(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("volumes")
	pod := n.runPod(t, config)
	whole := n.runContainer(t, pod, config, shell("whole", "cat /vol/etc/group; touch /vol/x || echo refused"), imageMount(""))
	part := n.runContainer(t, pod, config, shell("part", "ls /vol"), imageMount("etc"))
	ended := n.waitExited(t, whole)
	if got := strings.Join(logLines(t, ended.LogPath), "\n"); !strings.Contains(got, "extra:x:5000:web") || !strings.Contains(got, "refused") {
		t.Errorf("with the image: %s", got)
	}
	if len(ended.Mounts) != 1 || ended.Mounts[0].GetImage().GetImage() != testImage {
		t.Errorf("its mounts are told as %v", ended.Mounts)
	}
	if got := strings.Join(logLines(t, n.waitExited(t, part).LogPath), "\n"); !strings.Contains(got, "passwd") {
		t.Errorf("with a folder of it: %s", got)
	}
	copies := func() int {
		entries, err := os.ReadDir(filepath.Join(n.root, "images"))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	for i, id := range []string{whole, part} {
		if copies() != 1 {
			t.Errorf("there are %d copies before container %d goes", copies(), i)
		}
		if _, err := n.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
	}
	if copies() != 0 {
		t.Errorf("there are %d copies that no one has", copies())
	}
}

func TestLinkInAnImageDoesNotLeadToTheHost(t *testing.T) {
	n := newNode(t)
	config := n.podConfig("escape")
	pod := n.runPod(t, config)
	image, err := testEngine.ImageInspect(t.Context(), testImage)
	if err != nil {
		t.Fatal(err)
	}
	volume := filepath.Join(n.root, "images", strings.TrimPrefix(image.ID, "sha256:"))
	if err := os.MkdirAll(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(volume, "out")); err != nil {
		t.Fatal(err)
	}
	container := shell("main", "true")
	container.Mounts = []*runtimeapi.Mount{imageMount("out/passwd")}
	_, err = n.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: container, SandboxConfig: config})
	if err == nil || !strings.Contains(err.Error(), "out/passwd") {
		t.Errorf("CreateContainer returned %v", err)
	}
}

func TestImagesFilesAreCopiedAsTheyAre(t *testing.T) {
	dir := t.TempDir()
	if err := unpack(tarball(t,
		&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o555},
		&tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o4751, Size: 4},
		&tar.Header{Name: "d/hard", Typeflag: tar.TypeLink, Linkname: "d/f"},
		&tar.Header{Name: "d/soft", Typeflag: tar.TypeSymlink, Linkname: "f"},
		&tar.Header{Name: "d/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}), dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"d": os.ModeDir | 0o555, "d/f": 0o751, "d/hard": 0o751, "d/soft": os.ModeSymlink | 0o777} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if exists(filepath.Join(dir, "d/null")) {
		t.Error("a device was copied")
	}
}

func TestImageCannotBeUnpackedOutsideOfItsCopy(t *testing.T) {
	outside := t.TempDir()
	for name, headers := range map[string][]*tar.Header{
		"by its name": {{Name: "../x", Typeflag: tar.TypeReg, Mode: 0o644, Size: 4}},
		"by a link": {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: outside},
			{Name: "out/x", Typeflag: tar.TypeReg, Mode: 0o644, Size: 4}},
	} {
		if err := unpack(tarball(t, headers...), t.TempDir()); err == nil {
			t.Errorf("%s: unpacked", name)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside are %v, %v", entries, err)
	}
}

func tarball(t *testing.T, headers ...*tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte("data")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestRemovalWaitsForNobodyWhileNoImageIsMounted(t *testing.T) {
	s := new(Server)
	s.volumes.dir = filepath.Join(t.TempDir(), "images")
	s.volumes.using.RLock() // as long as a container is made with the first image
	defer s.volumes.using.RUnlock()
	done := make(chan error, 1)
	go func() { done <- s.removeUnusedVolumes(t.Context()) }()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(10 * time.Second):
		t.Error("it waits")
	}
}
