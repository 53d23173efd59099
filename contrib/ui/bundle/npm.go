package main

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	maxTarball = 64 << 20 // bytes of one package, compressed
	maxFile    = 64 << 20 // bytes of one of its files
)

// lockFile is a package-lock.json (https://docs.npmjs.com/cli/configuring-npm/package-lock-json), as far as it is needed here.
type lockFile struct {
	LockfileVersion int               `json:"lockfileVersion"`
	Packages        map[string]locked `json:"packages"`
}

// locked is one package of a lock file.
type locked struct {
	Version   string   `json:"version"`
	Integrity string   `json:"integrity"`
	License   string   `json:"license"`
	Dev       bool     `json:"dev"`
	OS        []string `json:"os"`
	CPU       []string `json:"cpu"`
}

// npmPackage is a package to install: at is its directory below the one of package.json.
type npmPackage struct {
	at string
	locked
}

// name is what the registry calls the package.
func (p npmPackage) name() string {
	_, name, _ := cutLast(p.at, "node_modules/")
	return name
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// url is where the registry has the package's tarball.
func (p npmPackage) url(registry string) string {
	_, base, found := cutLast(p.name(), "/")
	if !found {
		base = p.name()
	}
	return strings.TrimSuffix(registry, "/") + "/" + p.name() + "/-/" + base + "-" + p.Version + ".tgz"
}

// readLock returns the packages of a lock file that this machine can use, in order; those for development only if asked for.
func readLock(data []byte, dev bool) ([]npmPackage, error) {
	var lock lockFile
	if err := json.Unmarshal(data, &lock); err != nil {
		return nil, fmt.Errorf("cannot read package-lock.json: %w", err)
	}
	if lock.LockfileVersion != 3 {
		return nil, fmt.Errorf("cannot use package-lock.json of version %d: write it with npm 7 or newer", lock.LockfileVersion)
	}
	var packages []npmPackage
	for at, p := range lock.Packages {
		if at == "" || p.Dev && !dev || !listed(p.OS, runtime.GOOS) || !listed(p.CPU, npmCPU()) {
			continue
		}
		if !strings.HasPrefix(at, "node_modules/") || !filepath.IsLocal(at) || !strings.HasPrefix(p.Integrity, "sha512-") {
			return nil, fmt.Errorf("cannot use package-lock.json: %q has no sha512 or is not below node_modules", at)
		}
		packages = append(packages, npmPackage{at, p})
	}
	slices.SortFunc(packages, func(a, b npmPackage) int { return cmp.Compare(a.at, b.at) })
	return packages, nil
}

func listed(list []string, one string) bool { return len(list) == 0 || slices.Contains(list, one) }

// npmCPU is Node's name of this machine's architecture.
func npmCPU() string {
	if runtime.GOARCH == "amd64" {
		return "x64"
	}
	return runtime.GOARCH
}

// store fetches tarballs and keeps them in a directory, each under its hash.
type store struct {
	dir      string
	registry func() (string, error) // the URL, asked only when something is to be fetched
	client   *http.Client
}

// newStore keeps tarballs in the user's cache, so that a build needs the registry only for what is new, whatever was cleaned.
func newStore() (store, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return store{}, fmt.Errorf("cannot keep npm packages: %w", err)
	}
	return store{dir: filepath.Join(cache, "k8sm", "npm"), registry: sync.OnceValues(registryURL), client: &http.Client{Timeout: 5 * time.Minute}}, nil
}

// registryURL is where npm gets packages: as the environment says, or npm's configuration
// (https://docs.npmjs.com/cli/using-npm/config#registry).
func registryURL() (string, error) {
	if url := cmp.Or(os.Getenv("npm_config_registry"), os.Getenv("NPM_CONFIG_REGISTRY")); url != "" {
		return url, nil
	}
	out, err := exec.Command("npm", "config", "get", "registry").Output()
	if err != nil {
		return "", fmt.Errorf("cannot ask npm where it gets packages: %w; install npm, or set npm_config_registry to the URL of npm's registry", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// install unpacks the packages below root, unless they are there already. It removes directories of packages that are not in the list.
func (s store) install(ctx context.Context, root string, packages []npmPackage) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, p := range packages {
		group.Go(func() error {
			stamp := filepath.Join(root, p.at, ".integrity")
			if there, err := os.ReadFile(stamp); err == nil && string(there) == p.Integrity {
				return nil
			}
			data, err := s.tarball(ctx, p)
			if err != nil {
				return err
			}
			dir := filepath.Join(root, p.at)
			if err := errors.Join(os.RemoveAll(dir), unpack(data, dir)); err != nil {
				return fmt.Errorf("cannot unpack %s: %w", p.name(), err)
			}
			return os.WriteFile(stamp, []byte(p.Integrity), 0o644)
		})
	}
	return group.Wait()
}

// tarball returns the open tarball of a package, whose hash is right.
func (s store) tarball(ctx context.Context, p npmPackage) ([]byte, error) {
	sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(p.Integrity, "sha512-"))
	if err != nil || len(sum) != sha512.Size {
		return nil, fmt.Errorf("cannot use package-lock.json: the integrity of %s is no sha512", p.name())
	}
	file := filepath.Join(s.dir, hex.EncodeToString(sum)+".tgz")
	if data, err := os.ReadFile(file); err == nil && matches(data, sum) {
		return data, nil
	}
	registry, err := s.registry()
	if err != nil {
		return nil, err
	}
	data, err := s.fetch(ctx, p.url(registry))
	if err != nil {
		return nil, fmt.Errorf("cannot fetch the npm package %s %s: %w; npm_config_registry names another registry", p.name(), p.Version, err)
	}
	if !matches(data, sum) {
		return nil, fmt.Errorf("the npm package %s %s is not the one in package-lock.json: its sha512 differs", p.name(), p.Version)
	}
	return data, keep(file, data)
}

func matches(data, sum []byte) bool {
	got := sha512.Sum512(data)
	return slices.Equal(got[:], sum)
}

// keep writes a file that appears at once and whole: builds may run side by side.
func keep(file string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	fresh, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	_, err = fresh.Write(data)
	if err := errors.Join(err, fresh.Close()); err != nil {
		return errors.Join(err, os.Remove(fresh.Name()))
	}
	return os.Rename(fresh.Name(), file)
}

func (s store) fetch(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, response.Status)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxTarball+1))
	if err == nil && len(data) > maxTarball {
		err = fmt.Errorf("%s has more than %d MiB", url, maxTarball>>20)
	}
	return data, err
}

// unpack writes the regular files of a tarball below dir. As npm does, it leaves out the first part of each name.
func unpack(data []byte, dir string) error {
	compressed, err := gzip.NewReader(strings.NewReader(string(data)))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for archive := tar.NewReader(compressed); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		_, name, _ := strings.Cut(header.Name, "/")
		if header.Typeflag != tar.TypeReg || name == "" {
			continue
		}
		if err := unpackFile(root, name, header, archive); err != nil {
			return fmt.Errorf("%s: %w", header.Name, err)
		}
	}
}

func unpackFile(root *os.Root, name string, header *tar.Header, from io.Reader) error {
	if header.Size > maxFile {
		return fmt.Errorf("it has %d bytes", header.Size)
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644|fs.FileMode(header.Mode)&0o111)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, from)
	return errors.Join(err, file.Close())
}
