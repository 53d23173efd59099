package localmesos

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
)

// webServer serves "content of PATH", and counts how often it was asked.
func webServer(t *testing.T) (url string, asked *atomic.Int32) {
	t.Helper()
	asked = &atomic.Int32{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/there", http.StatusFound)
		case "/missing":
			http.NotFound(w, r)
		case "/half":
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, "half")
		default:
			fmt.Fprint(w, "content of "+r.URL.Path)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, asked
}

func newTestFetcher(t *testing.T) *fetcher {
	t.Helper()
	f, err := newFetcher(filepath.Join(t.TempDir(), "cache"))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func uriOf(value string, cache bool) mesos.CommandInfo_URI {
	yes, name := true, "file"
	return mesos.CommandInfo_URI{Value: value, Executable: &yes, Cache: &cache, OutputFile: &name}
}

func TestFetchedFileHasContentAndMode(t *testing.T) {
	url, _ := webServer(t)
	local := filepath.Join(t.TempDir(), "local")
	if err := os.WriteFile(local, []byte("content of local"), 0o600); err != nil {
		t.Fatal(err)
	}
	for uri, want := range map[string]string{
		url + "/km": "content of /km", url + "/moved": "content of /there", local: "content of local", "file://" + local: "content of local",
	} {
		for _, cache := range []bool{false, true} {
			sandbox := t.TempDir()
			info := &mesos.CommandInfo{URIs: []mesos.CommandInfo_URI{uriOf(uri, cache)}}
			if err := newTestFetcher(t).fetchAll(t.Context(), info, sandbox); err != nil {
				t.Fatalf("%s: %v", uri, err)
			}
			got, err := os.ReadFile(filepath.Join(sandbox, "file"))
			stat, _ := os.Stat(filepath.Join(sandbox, "file"))
			if err != nil || string(got) != want || stat.Mode().Perm() != 0o755 {
				t.Errorf("%s, cached %t: %q, %v, %v", uri, cache, got, stat.Mode(), err)
			}
		}
	}
}

func TestConcurrentFetchesDownloadCachedFileOnce(t *testing.T) {
	url, asked := webServer(t)
	f := newTestFetcher(t)
	var all sync.WaitGroup
	for range 10 {
		sandbox := t.TempDir()
		all.Go(func() {
			info := &mesos.CommandInfo{URIs: []mesos.CommandInfo_URI{uriOf(url+"/km", true)}}
			if err := f.fetchAll(t.Context(), info, sandbox); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := asked.Load(); got != 1 {
		t.Errorf("the server was asked %d times", got)
	}
	other := "other"
	info := &mesos.CommandInfo{User: &other, URIs: []mesos.CommandInfo_URI{uriOf(url+"/km", true)}}
	if err := f.fetchAll(t.Context(), info, t.TempDir()); err != nil || asked.Load() != 2 {
		t.Errorf("%v; another user's copy is his own, but the server was asked %d times", err, asked.Load())
	}
	again, err := newFetcher(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.fetchAll(t.Context(), info, t.TempDir()); err != nil || asked.Load() != 3 {
		t.Errorf("%v; an agent that starts has an empty cache, but the server was asked %d times", err, asked.Load())
	}
}

func TestFailedFetchIsAnErrorAndNotCached(t *testing.T) {
	url, asked := webServer(t)
	f := newTestFetcher(t)
	for _, uri := range []string{url + "/missing", url + "/half", "http://127.0.0.1:1/km", "relative", "ftp://server/km"} {
		for range 2 {
			info := &mesos.CommandInfo{URIs: []mesos.CommandInfo_URI{uriOf(uri, true)}}
			if err := f.fetchAll(t.Context(), info, t.TempDir()); err == nil || !strings.Contains(err.Error(), uri) {
				t.Errorf("%s: %v", uri, err)
			}
		}
	}
	if got := asked.Load(); got != 4 {
		t.Errorf("the server was asked %d times: what failed has to be tried again", got)
	}
	outside := uriOf(url+"/km", false)
	*outside.OutputFile = "../file"
	if err := f.fetchAll(t.Context(), &mesos.CommandInfo{URIs: []mesos.CommandInfo_URI{outside}}, t.TempDir()); err == nil {
		t.Error("a file was written outside the sandbox")
	}
}

// archived returns archives of one executable file "inside" by the end of their names.
func archived(t *testing.T) map[string][]byte {
	t.Helper()
	made := map[string]*bytes.Buffer{"tar": {}, "tar.gz": {}, "tgz": {}, "zip": {}}
	for kind, buffer := range made {
		var to io.Writer = buffer
		packer := gzip.NewWriter(buffer)
		if strings.HasSuffix(kind, "gz") {
			to = packer
		}
		var err error
		if kind == "zip" {
			files := zip.NewWriter(to)
			header := &zip.FileHeader{Name: "inside"}
			header.SetMode(0o755)
			file, createErr := files.CreateHeader(header)
			if createErr != nil {
				t.Fatal(createErr)
			}
			_, err = io.WriteString(file, "content")
			err = errors.Join(err, files.Close())
		} else {
			files := tar.NewWriter(to)
			err = files.WriteHeader(&tar.Header{Name: "inside", Mode: 0o755, Size: 7, Typeflag: tar.TypeReg})
			_, writeErr := io.WriteString(files, "content")
			err = errors.Join(err, writeErr, files.Close())
		}
		if to == packer {
			err = errors.Join(err, packer.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	all := map[string][]byte{}
	for kind, buffer := range made {
		all[kind] = buffer.Bytes()
	}
	return all
}

func TestArchiveIsUnpackedAndCachedArchiveIsNotInSandbox(t *testing.T) {
	archives := archived(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, end, _ := strings.Cut(r.URL.Path, ".")
		_, _ = w.Write(archives[end])
	}))
	defer server.Close()
	fetch := func(uri mesos.CommandInfo_URI) (names string) {
		t.Helper()
		sandbox := t.TempDir()
		if err := newTestFetcher(t).fetchAll(t.Context(), &mesos.CommandInfo{URIs: []mesos.CommandInfo_URI{uri}}, sandbox); err != nil {
			t.Fatalf("%s: %v", uri.Value, err)
		}
		entries, err := os.ReadDir(sandbox)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			names += entry.Name() + " "
		}
		if content, err := os.ReadFile(filepath.Join(sandbox, "inside")); err == nil {
			info, err := os.Stat(filepath.Join(sandbox, "inside"))
			if err != nil || string(content) != "content" || info.Mode().Perm() != 0o755 {
				t.Errorf("%s: %q, %v, %v", uri.Value, content, info, err)
			}
		}
		return names
	}
	yes, no := true, false
	for end := range archives {
		uri := mesos.CommandInfo_URI{Value: server.URL + "/a." + end, Cache: &yes}
		if got := fetch(uri); got != "inside " {
			t.Errorf("%s from the cache: %s", end, got)
		}
		uri.Cache = &no
		if got := fetch(uri); got != "a."+end+" inside " {
			t.Errorf("%s: %s", end, got)
		}
		uri.Executable = &yes
		if got := fetch(uri); got != "a."+end+" " {
			t.Errorf("%s that is to be executable: %s", end, got)
		}
	}
	uri := mesos.CommandInfo_URI{Value: server.URL + "/a.tar.gz", Extract: &no, Cache: &yes}
	if got := fetch(uri); got != "a.tar.gz " {
		t.Errorf("without extract: %s", got)
	}
}

func TestBrokenOrEscapingArchiveIsAnError(t *testing.T) {
	dir := t.TempDir()
	var outside bytes.Buffer
	files := tar.NewWriter(&outside)
	if err := errors.Join(files.WriteHeader(&tar.Header{Name: "../outside", Typeflag: tar.TypeReg}), files.Close()); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"broken.tar.gz": []byte("nonsense"), "outside.tar": outside.Bytes(), "a.tar.xz": nil} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		info := &mesos.CommandInfo{URIs: []mesos.CommandInfo_URI{{Value: path}}}
		if err := newTestFetcher(t).fetchAll(t.Context(), info, t.TempDir()); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	began := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	info := &mesos.CommandInfo{URIs: []mesos.CommandInfo_URI{uriOf(server.URL+"/km", true)}}
	if err := newTestFetcher(t).fetchAll(ctx, info, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
