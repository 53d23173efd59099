package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSourceIsTakenFromTheFirstAddressThatHasItUnchanged(t *testing.T) {
	wanted := []byte("the source")
	sum := sha256.Sum256(wanted)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/good":
			_, _ = w.Write(wanted)
		case "/forged":
			_, _ = w.Write([]byte("another source"))
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()

	got, err := fetch(t.Context(), []string{server.URL + "/none", server.URL + "/forged", server.URL + "/good"}, hex.EncodeToString(sum[:]))
	if err != nil || !bytes.Equal(got, wanted) {
		t.Errorf("fetch returned %q, %v", got, err)
	}
	_, err = fetch(t.Context(), []string{server.URL + "/none", server.URL + "/forged"}, hex.EncodeToString(sum[:]))
	if err == nil || !strings.Contains(err.Error(), "/none: 404") || !strings.Contains(err.Error(), "/forged: its SHA-256 is") {
		t.Errorf("fetch returned %v; want the reason of each address", err)
	}
}

func TestArchiveIsUnpackedWithModesAndLinks(t *testing.T) {
	dir := t.TempDir()
	if err := unpack(archive(t,
		&tar.Header{Name: "b/", Typeflag: tar.TypeDir, Mode: 0o755},
		&tar.Header{Name: "b/run.sh", Typeflag: tar.TypeReg, Mode: 0o755, Size: 4},
		&tar.Header{Name: "b/link", Typeflag: tar.TypeSymlink, Linkname: "run.sh"}), dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "b", "link"))
	if err != nil || info.Mode() != 0o755 || info.Size() != 4 {
		t.Errorf("the link leads to %v, %v", info, err)
	}
}

func TestArchiveThatLeavesItsDirectoryIsRefused(t *testing.T) {
	outside := t.TempDir()
	for name, entries := range map[string][]*tar.Header{
		"by its name": {{Name: "../x", Typeflag: tar.TypeReg, Mode: 0o644, Size: 4}},
		"by a link": {
			{Name: "out", Typeflag: tar.TypeSymlink, Linkname: outside},
			{Name: "out/x", Typeflag: tar.TypeReg, Mode: 0o644, Size: 4},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := unpack(archive(t, entries...), t.TempDir()); err == nil {
				t.Error("it was unpacked")
			}
		})
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside lies %v, %v", left, err)
	}
}

// archive has files of the content "data".
func archive(t *testing.T, entries ...*tar.Header) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(e); err != nil {
			t.Fatal(err)
		}
		if e.Size > 0 {
			if _, err := io.WriteString(w, "data"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestBusyboxIsLinkedStatically(t *testing.T) {
	got := configured("CONFIG_DESKTOP=y\n# CONFIG_STATIC is not set\nCONFIG_TC=y\nCONFIG_TCPSVD=y\n")
	if diff := cmp.Diff("CONFIG_DESKTOP=y\nCONFIG_STATIC=y\n# CONFIG_TC is not set\nCONFIG_TCPSVD=y\n", got); diff != "" {
		t.Error(diff)
	}
}

func TestBusyboxThatWasBuiltIsNotBuiltAgain(t *testing.T) {
	dir := t.TempDir()
	built := filepath.Join(dir, "busybox-"+busyboxVersion)
	if err := os.WriteFile(built, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := Busybox(t.Context(), dir, io.Discard); err != nil || got != built {
		t.Errorf("Busybox returned %q, %v", got, err)
	}
}

func TestFailedMakeTellsItsLastWords(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Makefile"), []byte("all:\n\t@echo no header; exit 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MAKEFLAGS", "n") // of an outer make; it must not reach this one, which would then run nothing
	if err := runMake(t.Context(), dir, io.Discard, "all"); err == nil || !strings.Contains(err.Error(), "no header") {
		t.Errorf("runMake returned %v", err)
	}
}

func TestSameFilesMakeTheSameLayer(t *testing.T) {
	files := []File{
		{Name: "tmp/", Mode: 0o1777}, {Name: "bin/a", Mode: 0o4755, Data: []byte("program")}, {Name: "bin/b", Mode: 0o755, Link: "bin/a"},
	}
	first, second := layer(t, files...), layer(t, files...)
	if first.sum != second.sum {
		t.Error("two layers of the same files differ")
	}
	got := headers(t, first.archive)
	for name, want := range map[string]tar.Header{
		"tmp/":  {Typeflag: tar.TypeDir, Mode: 0o1777},
		"bin/a": {Typeflag: tar.TypeReg, Mode: 0o4755, Size: 7},
		"bin/b": {Typeflag: tar.TypeLink, Mode: 0o755, Linkname: "bin/a"},
	} {
		h := got[name]
		if diff := cmp.Diff(want, tar.Header{Typeflag: h.Typeflag, Mode: h.Mode, Size: h.Size, Linkname: h.Linkname}); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestImagesShareTheirLayersInTheArchive(t *testing.T) {
	base, more := layer(t, File{Name: "a"}), layer(t, File{Name: "b"})
	data, err := imageArchive([]Image{
		{Names: []string{"x:1", "x:2"}, Layers: []Layer{base}, Cmd: []string{"sh"}},
		{Names: []string{"y:1"}, Layers: []Layer{base, more}, User: "1000"},
	})
	if err != nil {
		t.Fatal(err)
	}
	files := contents(t, data)
	if len(files) != 5 { // two layers, two configurations and the manifest
		t.Errorf("the archive has %d files", len(files))
	}
	want := `[{"Config":"config-0.json","RepoTags":["x:1","x:2"],"Layers":["` + base.sum + `.tar"]},` +
		`{"Config":"config-1.json","RepoTags":["y:1"],"Layers":["` + base.sum + `.tar","` + more.sum + `.tar"]}]`
	if diff := cmp.Diff(want, string(files["manifest.json"])); diff != "" {
		t.Error(diff)
	}
	var config struct {
		Config struct{ User string }
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(files["config-1.json"], &config); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"sha256:" + base.sum, "sha256:" + more.sum}, config.RootFS.DiffIDs); diff != "" || config.Config.User != "1000" {
		t.Errorf("user %q; layers: %s", config.Config.User, diff)
	}
}

func layer(t *testing.T, files ...File) Layer {
	t.Helper()
	l, err := NewLayer(files...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func headers(t *testing.T, archive []byte) map[string]tar.Header {
	t.Helper()
	found := map[string]tar.Header{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = *h
	}
}

func contents(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if found[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLibrariesAreReadFromLdd(t *testing.T) {
	got := libraries([]byte("\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n"))
	want := []string{"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
