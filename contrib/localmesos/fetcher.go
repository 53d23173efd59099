package localmesos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
)

// fetchStall is how long a download may stall before it fails (--fetcher_stall_timeout of Mesos).
const fetchStall = time.Minute

// fetcher downloads the URIs of commands into sandboxes, as Mesos' fetcher does
// (https://mesos.apache.org/documentation/latest/fetcher/): local files, http and https. It downloads a cached URI once per user,
// even for concurrent requests; failures are not cached. It unpacks archives unless executable is set or extract is false. A
// cached archive stays in the cache; others stay in the sandbox too. Unlike Mesos', its cache grows until the agent restarts.
type fetcher struct {
	dir string // cache directory

	mu     sync.Mutex // guards the fields below
	cached map[cacheKey]*cached
	files  int // number of files created in dir so far
}

// cacheKey identifies a cached file, as in Mesos.
type cacheKey struct{ user, uri string }

// cached is a file in the cache, or a running download.
type cached struct {
	path string
	done chan struct{} // closed when err is set
	err  error
}

// newFetcher returns a fetcher with an empty cache in the directory.
func newFetcher(dir string) (*fetcher, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("cannot empty the fetcher's cache: %w", err)
	}
	return &fetcher{dir: dir, cached: map[cacheKey]*cached{}}, nil
}

// fetchAll fetches all URIs of the command into its sandbox.
func (f *fetcher) fetchAll(ctx context.Context, info *mesos.CommandInfo, sandbox string) error {
	for i := range info.URIs {
		if err := f.fetch(ctx, info.GetUser(), &info.URIs[i], sandbox); err != nil {
			return fmt.Errorf("cannot fetch %s: %w", info.URIs[i].Value, err)
		}
	}
	return nil
}

func (f *fetcher) fetch(ctx context.Context, user string, uri *mesos.CommandInfo_URI, sandbox string) error {
	name := uri.GetOutputFile()
	if name == "" {
		name = filepath.Base(uri.Value)
	}
	if !filepath.IsLocal(name) {
		return fmt.Errorf("its file %q would be outside the sandbox", name)
	}
	mode := os.FileMode(0o644)
	if uri.GetExecutable() {
		mode = 0o755
	}
	to := filepath.Join(sandbox, name)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	extract := uri.GetExtract() && !uri.GetExecutable()
	if !uri.GetCache() {
		if err := download(ctx, uri.Value, to, mode); err != nil || !extract {
			return err
		}
		_, err := unpack(to, sandbox)
		return err
	}
	path, err := f.fromCache(ctx, cacheKey{user, uri.Value})
	if err != nil {
		return err
	}
	if extract {
		if known, err := unpack(path, sandbox); known {
			return err
		}
	}
	return copyFile(path, to, mode)
}

// fromCache returns the file in the cache after its download.
func (f *fetcher) fromCache(ctx context.Context, key cacheKey) (string, error) {
	f.mu.Lock()
	c, known := f.cached[key]
	if !known {
		f.files++
		c = &cached{path: filepath.Join(f.dir, key.user, strconv.Itoa(f.files)+"-"+filepath.Base(key.uri)), done: make(chan struct{})}
		f.cached[key] = c
	}
	f.mu.Unlock()
	if known {
		select {
		case <-c.done:
			return c.path, c.err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	c.err = os.MkdirAll(filepath.Dir(c.path), 0o755)
	if c.err == nil {
		c.err = download(ctx, key.uri, c.path, 0o644)
	}
	if c.err != nil {
		f.mu.Lock()
		delete(f.cached, key)
		f.mu.Unlock()
	}
	close(c.done)
	return c.path, c.err
}

// download downloads a URI to a file.
func download(ctx context.Context, uri, to string, mode os.FileMode) error {
	if !strings.HasPrefix(uri, "http://") && !strings.HasPrefix(uri, "https://") {
		from := strings.TrimPrefix(uri, "file://")
		if !filepath.IsAbs(from) {
			return errors.New("the local Mesos fetches http, https and local files with absolute paths only")
		}
		return copyFile(from, to, mode)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(fetchStall, func() { cancel(fmt.Errorf("nothing came for %s", fetchStall)) })
	defer stalled.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %s", response.Status)
	}
	if err := writeAll(to, mode, &progressing{response.Body, stalled}); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	return nil
}

// progressing resets the stall timer of a download with each read.
type progressing struct {
	io.Reader
	stalled *time.Timer
}

func (p *progressing) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if n > 0 {
		p.stalled.Reset(fetchStall)
	}
	return n, err
}

func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return writeAll(to, mode, in)
}

func writeAll(to string, mode os.FileMode, in io.Reader) error {
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
