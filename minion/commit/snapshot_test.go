package commit

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// take copies a directory, and calls inPause in the pause. It returns the layer's entries in their order, and its files' contents.
func take(t *testing.T, upper string, inPause func()) (headers []*tar.Header, contents map[string]string) {
	t.Helper()
	s := snapshot{upper: upper, dir: t.TempDir(), copied: map[uint64]bool{}}
	nothing := func() error { return nil }
	_, err := s.take(t.Context(), func() error { inPause(); return nil }, nothing)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "layer")
	if err := s.writeLayer(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	contents = map[string]string{}
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		headers, contents[header.Name] = append(headers, header), string(content)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestLayerHasTheFilesAsTheyAre(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes devices")
	}
	upper := t.TempDir()
	at := func(name string) string { return filepath.Join(upper, name) }
	old := time.Unix(1600000000, 0)
	must(t, os.Mkdir(at("dir"), 0o700), os.WriteFile(at("dir/file"), []byte("text"), 0o640), os.Chown(at("dir/file"), 12, 34),
		os.Chtimes(at("dir/file"), old, old), os.Link(at("dir/file"), at("link")), os.Symlink("/etc/passwd", at("symlink")),
		unix.Mkfifo(at("fifo"), 0o600), unix.Mknod(at("gone"), unix.S_IFCHR, 0), unix.Mknod(at("null"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))),
		os.WriteFile(at("setuid"), nil, 0o755), os.Chmod(at("setuid"), 0o755|os.ModeSetuid), os.Mkdir(at("opaque"), 0o755))
	if err := unix.Setxattr(at("opaque"), opaqueAttribute, []byte("y"), 0); err != nil {
		t.Fatalf("%v: the tests need a file system with trusted attributes in $TMPDIR", err)
	}
	headers, contents := take(t, upper, func() {})
	var lines []string
	for _, h := range headers {
		lines = append(lines, fmt.Sprintf("%c %s %s %o %d:%d", h.Typeflag, h.Name, h.Linkname, h.Mode, h.Uid, h.Gid))
	}
	want := []string{
		"5 dir/  700 0:0", "0 dir/file  640 12:34", "6 fifo  600 0:0", "0 .wh.gone  600 0:0", "1 link dir/file 640 12:34", "3 null  644 0:0",
		"5 opaque/  755 0:0", "0 opaque/.wh..wh..opq  600 0:0", "0 setuid  4755 0:0", "2 symlink /etc/passwd 777 0:0",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	if contents["dir/file"] != "text" || !headers[1].ModTime.Equal(old) {
		t.Errorf("the file has %q of %s", contents["dir/file"], headers[1].ModTime)
	}
}

// What changes after a file was copied is in the layer, and nothing of before.
func TestLayerIsOfTheMomentOfThePause(t *testing.T) {
	upper := t.TempDir()
	at := func(name string) string { return filepath.Join(upper, name) }
	must(t, os.MkdirAll(at("a"), 0o755), os.MkdirAll(at("b"), 0o755), os.WriteFile(at("a/x"), []byte("of a"), 0o644), os.WriteFile(at("b/x"), []byte("of b"), 0o644),
		os.WriteFile(at("changes"), []byte("before"), 0o644), os.WriteFile(at("goes"), nil, 0o644), os.WriteFile(at("mode"), nil, 0o600), os.WriteFile(at("becomes"), nil, 0o600))
	headers, contents := take(t, upper, func() {
		f, err := os.OpenFile(at("changes"), os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteString("during")
		must(t, err, f.Close(), os.Remove(at("goes")), os.Rename(at("a"), at("t")), os.Rename(at("b"), at("a")), os.Rename(at("t"), at("b")),
			os.WriteFile(at("comes"), []byte("new"), 0o644), os.Chmod(at("mode"), 0o644), os.Remove(at("becomes")), os.Symlink("/etc/shadow", at("becomes")))
	})
	for name, want := range map[string]string{"a/x": "of b", "b/x": "of a", "changes": "during", "comes": "new"} {
		if contents[name] != want {
			t.Errorf("%s has %q, want %q", name, contents[name], want)
		}
	}
	for _, h := range headers {
		if h.Name == "goes" || h.Name == "mode" && h.Mode != 0o644 || h.Name == "becomes" && h.Typeflag != tar.TypeSymlink {
			t.Errorf("it has %s %o", h.Name, h.Mode)
		}
	}
}

// A program that has a file in its memory writes without a call that would change the file's times, once the page is dirty.
func TestLayerHasWhatWasWrittenToMappedMemory(t *testing.T) {
	upper := t.TempDir()
	file := filepath.Join(upper, "mapped")
	must(t, os.WriteFile(file, make([]byte, 8192), 0o644))
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	memory, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer func() { _ = unix.Munmap(memory) }()
	var at atomic.Int64
	for i := range 100 {
		memory[0] = byte(i) // dirty, and so writable
		at.Store(int64(i))
	}
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for n := int64(100); ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				memory[0] = byte(n)
				at.Store(n)
			}
		}
	}()
	_, contents := take(t, upper, func() { close(stop); <-stopped })
	if got, want := contents["mapped"][0], byte(at.Load()); got != want {
		t.Errorf("the layer has %d, want %d", got, want)
	}
}

// A container may put a link in the place of a directory while its files are copied: nothing outside comes into the layer.
func TestCopyIsNotLedOutside(t *testing.T) {
	outside, upper := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "file"), []byte("of the host"), 0o600), os.Mkdir(filepath.Join(upper, "dir"), 0o755),
		os.WriteFile(filepath.Join(upper, "dir", "file"), []byte("own"), 0o644))
	s := snapshot{upper: upper, dir: t.TempDir(), copied: map[uint64]bool{}}
	var err error
	s.root, err = os.OpenRoot(upper)
	must(t, err)
	defer s.root.Close()
	must(t, os.RemoveAll(filepath.Join(upper, "dir")), os.Symlink(outside, filepath.Join(upper, "dir")))
	err = s.note(filepath.Join(upper, "dir", "file"), time.Time{})
	if err == nil {
		t.Error("it was copied")
	}
	if copies, err := os.ReadDir(s.dir); err != nil || len(copies) > 0 {
		t.Errorf("there are copies: %v, %v", copies, err)
	}
	must(t, os.Remove(filepath.Join(upper, "dir")), unix.Mkfifo(filepath.Join(upper, "dir"), 0o600))
	if err := s.copy("dir", 1); !replaced(err) {
		t.Errorf("a FIFO is copied: %v", err)
	}
}

func TestContainerIsResumedAfterAFailure(t *testing.T) {
	upper := t.TempDir()
	s := snapshot{upper: upper, dir: filepath.Join(t.TempDir(), "missing"), copied: map[uint64]bool{}}
	resumed := false
	_, err := s.take(t.Context(), func() error { return os.WriteFile(filepath.Join(upper, "new"), nil, 0o600) },
		func() error { resumed = true; return nil })
	if err == nil || !resumed {
		t.Errorf("resumed: %v, %v", resumed, err)
	}
}

// The container that counts in two files, one after the other, is stopped between two of its steps, not in the middle of the copy.
func TestImageOfABusyContainerIsOfOneMoment(t *testing.T) {
	n := start(t)
	info, err := testEngine.Info(t.Context())
	must(t, err)
	there, err := testEngine.ContainerInspect(t.Context(), n.id)
	must(t, err)
	if n.upperDir(there, info) == "" {
		t.Fatalf("the changes are not read here: driver %s, %v", there.GraphDriver.Name, there.GraphDriver.Data)
	}
	run(t, n.id, `i=0; (while :; do i=$((i+1)); echo $i >/count-a; echo $i >/count-b; done) & /bin/busybox dd if=/dev/zero of=/middle bs=1M count=12 2>/dev/null`)
	n.serve(t)
	image := testRegistry.Address + "/busy:1"
	c := n.becomes(t, n.ask(t, "busy", image), "Succeeded", "paused for")
	t.Log(c.Status.Message)
	_, files := texts(t, pushed(t, image))
	var a, b int
	_, errA := fmt.Sscan(files["1:count-a"], &a)
	_, errB := fmt.Sscan(files["1:count-b"], &b)
	empty := files["1:count-a"] == "" || files["1:count-b"] == "" // in the middle of a write
	if !empty && (errA != nil || errB != nil || a-b > 1 || a < b) || len(files["1:middle"]) != 12<<20 {
		t.Errorf("the files have %q and %q, and %d bytes", files["1:count-a"], files["1:count-b"], len(files["1:middle"]))
	}
	n.leftNothing(t)
}
