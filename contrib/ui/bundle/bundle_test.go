package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tarball has files by name.
func tarball(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	compressed := gzip.NewWriter(&b)
	archive := tar.NewWriter(compressed)
	for name, text := range files {
		header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}
		if target, link := strings.CutPrefix(text, "-> "); link {
			header.Size, header.Typeflag, header.Linkname, text = 0, tar.TypeSymlink, target, ""
		}
		if err := archive.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(archive, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := compressed.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func integrity(data []byte) string {
	sum := sha512.Sum512(data)
	return "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

// registry serves tarballs by path, and counts requests.
func registry(t *testing.T, tarballs map[string][]byte) (store, *atomic.Int32) {
	t.Helper()
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		data, there := tarballs[r.URL.Path]
		if !there {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(server.Close)
	return store{dir: t.TempDir(), registry: func() (string, error) { return server.URL, nil }, client: server.Client()}, &asked
}

func TestPackagesAreFetchedOnceAndUnpacked(t *testing.T) {
	data := tarball(t, map[string]string{"package/index.js": "let a", "package/lib/b.js": "let b"})
	s, asked := registry(t, map[string][]byte{"/@scope/name/-/name-1.2.3.tgz": data})
	packages := []npmPackage{{"node_modules/@scope/name", locked{Version: "1.2.3", Integrity: integrity(data)}}}
	for range 2 {
		root := t.TempDir() // another clone
		for range 2 {
			if err := s.install(t.Context(), root, packages); err != nil {
				t.Fatal(err)
			}
		}
		for name, want := range map[string]string{"index.js": "let a", "lib/b.js": "let b"} {
			if got, err := os.ReadFile(filepath.Join(root, "node_modules/@scope/name", name)); err != nil || string(got) != want {
				t.Errorf("%s is %q, %v", name, got, err)
			}
		}
	}
	if asked.Load() != 1 {
		t.Errorf("the registry was asked %d times", asked.Load())
	}
}

func TestPackageThatIsNotTheLockedOneIsRefused(t *testing.T) {
	right, wrong := tarball(t, map[string]string{"package/index.js": "let a"}), tarball(t, map[string]string{"package/index.js": "steal()"})
	s, _ := registry(t, map[string][]byte{"/a/-/a-1.0.0.tgz": wrong})
	packages := []npmPackage{{"node_modules/a", locked{Version: "1.0.0", Integrity: integrity(right)}}}
	root := t.TempDir()
	if err := s.install(t.Context(), root, packages); err == nil || !strings.Contains(err.Error(), "its sha512 differs") {
		t.Errorf("it says %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(root, "*")); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
	// Nor is a file that somebody put into the store.
	sum := sha512.Sum512(right)
	if err := keep(filepath.Join(s.dir, hex.EncodeToString(sum[:])+".tgz"), wrong); err != nil {
		t.Fatal(err)
	}
	if err := s.install(t.Context(), root, packages); err == nil {
		t.Error("a wrong file of the store was used")
	}
}

func TestMissingPackageIsNamed(t *testing.T) {
	s, _ := registry(t, nil)
	err := s.install(t.Context(), t.TempDir(), []npmPackage{{"node_modules/a", locked{Version: "1.0.0", Integrity: integrity(nil)}}})
	if err == nil || !strings.Contains(err.Error(), "npm package a 1.0.0") || !strings.Contains(err.Error(), "npm_config_registry") {
		t.Errorf("it says %v", err)
	}
}

func TestTarballWritesOnlyBelowItsDirectory(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"parent":   {"package/../../evil": "x"},
		"absolute": {"package//etc/evil": "x"},
		"link":     {"package/link": "-> /tmp", "package/link/evil": "x"},
	} {
		dir := filepath.Join(t.TempDir(), "a", "b")
		_ = unpack(tarball(t, files), dir) // an error is fine, too
		err := filepath.WalkDir(filepath.Dir(filepath.Dir(dir)), func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.Name() == "evil" && !strings.HasPrefix(path, dir) {
				t.Errorf("%s: it wrote %s", name, path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat("/tmp/evil"); err == nil {
		t.Error("it wrote /tmp/evil")
	}
}

func TestLockFileIsReadForThisMachine(t *testing.T) {
	sum := integrity(nil)
	lock := `{"lockfileVersion": 3, "packages": {
		"": {"version": "1"},
		"node_modules/b": {"version": "2", "integrity": "` + sum + `"},
		"node_modules/a": {"version": "1", "integrity": "` + sum + `", "os": ["linux"]},
		"node_modules/b/node_modules/@s/c": {"version": "3", "integrity": "` + sum + `"},
		"node_modules/elsewhere": {"version": "1", "integrity": "` + sum + `", "os": ["plan8"]},
		"node_modules/check": {"version": "1", "integrity": "` + sum + `", "dev": true}}}`
	names := func(dev bool) (names []string) {
		packages, err := readLock([]byte(lock), dev)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packages {
			names = append(names, p.name()+" "+p.url("https://r/"))
		}
		return names
	}
	want := []string{"a https://r/a/-/a-1.tgz", "b https://r/b/-/b-2.tgz", "@s/c https://r/@s/c/-/c-3.tgz"}
	if diff := cmp.Diff(want, names(false)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := names(true); len(got) != 4 {
		t.Errorf("with those for development: %v", got)
	}
	for _, bad := range []string{"", `{"lockfileVersion": 1}`, `{"lockfileVersion": 3, "packages": {"node_modules/a": {"integrity": "sha1-x"}}}`,
		`{"lockfileVersion": 3, "packages": {"node_modules/../../a": {"integrity": "` + sum + `"}}}`} {
		if _, err := readLock([]byte(bad), false); err == nil {
			t.Errorf("%s is a lock file", bad)
		}
	}
}

func TestLockFileOfThePageIsComplete(t *testing.T) {
	data, err := os.ReadFile("../web/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	packages, err := readLock(data, true)
	if err != nil || len(packages) < 20 {
		t.Fatalf("%d packages, %v", len(packages), err)
	}
	for _, p := range packages {
		if p.License == "" || strings.Contains(p.License, "GPL") {
			t.Errorf("%s has the license %q", p.name(), p.License)
		}
	}
}

func TestRegistryIsTheOneOfTheEnvironmentOrOfNPM(t *testing.T) {
	t.Setenv("npm_config_registry", "https://npm.example")
	if url, err := registryURL(); url != "https://npm.example" || err != nil {
		t.Errorf("%s %v", url, err)
	}
	dir := t.TempDir()
	t.Setenv("npm_config_registry", "")
	t.Setenv("NPM_CONFIG_REGISTRY", "")
	t.Setenv("PATH", dir)
	if _, err := registryURL(); err == nil || !strings.Contains(err.Error(), "npm_config_registry") {
		t.Errorf("without npm: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "npm"), []byte("#!/bin/sh\necho https://other.example/\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if url, err := registryURL(); url != "https://other.example/" || err != nil {
		t.Errorf("%s %v", url, err)
	}
}
