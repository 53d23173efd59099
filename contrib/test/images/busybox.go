// Package images builds container images for Kubernetes' own test suites, for machines without access to an image registry. They
// contain busybox, built from source, and substitutes for other programs. It knows Docker's image format, but neither the suites nor
// k8sm.
//
// Start reading at Busybox and Load.
package images

import (
	"archive/tar"
	"bytes"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The source of busybox in Debian 12, which is the unchanged upstream release. The suites cannot use Debian's busybox-static: it
// lacks applets that they call, and its shell runs applets without exec.
const (
	busyboxVersion = "1.35.0"
	busyboxSource  = "busybox_" + busyboxVersion + ".orig.tar.bz2"
	busyboxSHA256  = "faeeb244c35a348a334f4a59e44626ee870fb07b6884d68c10ae8bc19f83a694"
	busyboxPool    = "pool/main/b/busybox/"
	busyboxOrigin  = "https://busybox.net/downloads/busybox-" + busyboxVersion + ".tar.bz2"
)

// Busybox returns the path of a static busybox with all applets. It builds it in dir, unless it is there already, in about a minute
// with two processors. It needs make, gcc, libc's headers and bzip2. out gets one line per compiled file.
func Busybox(ctx context.Context, dir string, out io.Writer) (string, error) {
	program := filepath.Join(dir, "busybox-"+busyboxVersion)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	archive, err := fetch(ctx, append(debianMirrors(ctx), busyboxOrigin), busyboxSHA256)
	if err != nil {
		return "", fmt.Errorf("cannot get the source of busybox: %w", err)
	}
	work, err := os.MkdirTemp(dir, "busybox-")
	if err != nil {
		return "", fmt.Errorf("cannot build busybox: %w", err)
	}
	defer os.RemoveAll(work)
	if err := unpack(bzip2.NewReader(bytes.NewReader(archive)), work); err != nil {
		return "", fmt.Errorf("cannot unpack the source of busybox: %w", err)
	}
	source := filepath.Join(work, "busybox-"+busyboxVersion)
	if err := makeBusybox(ctx, source, out); err != nil {
		return "", fmt.Errorf("cannot build busybox: %w", err)
	}
	return program, os.Rename(filepath.Join(source, "busybox"), program)
}

// debianMirrors are where this machine's apt would look for the source. Elsewhere than on Debian there is none.
func debianMirrors(ctx context.Context) []string {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return nil
	}
	var mirrors []string
	for line := range strings.Lines(string(out)) {
		if base := strings.TrimSpace(line); strings.HasPrefix(base, "http") {
			mirrors = append(mirrors, strings.TrimSuffix(base, "/")+"/"+busyboxPool+busyboxSource)
		}
	}
	slices.Sort(mirrors)
	return slices.Compact(mirrors)
}

// fetch returns the content of the first address that has it with that checksum.
func fetch(ctx context.Context, addresses []string, sum string) ([]byte, error) {
	var problems []error
	for _, address := range addresses {
		data, err := get(ctx, address)
		if err == nil {
			got := sha256.Sum256(data)
			if hex.EncodeToString(got[:]) == sum {
				return data, nil
			}
			err = fmt.Errorf("its SHA-256 is %x, not %s", got, sum)
		}
		problems = append(problems, fmt.Errorf("%s: %w", address, err))
	}
	return nil, errors.Join(problems...)
}

func get(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(response.Status)
	}
	return io.ReadAll(response.Body)
}

// unpack extracts a tar archive below dir, and refuses entries that would leave it.
func unpack(archive io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for r := tar.NewReader(archive); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unpackOne(root, header, r); err != nil {
			return fmt.Errorf("%s: %w", header.Name, err)
		}
	}
}

func unpackOne(root *os.Root, header *tar.Header, content io.Reader) error {
	name := filepath.Clean(header.Name)
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, 0o755)
	case tar.TypeSymlink:
		return root.Symlink(header.Linkname, name)
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, os.FileMode(header.Mode).Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	default: // remarks of the archiver
		return nil
	}
}

// makeBusybox builds in the source's own folder.
func makeBusybox(ctx context.Context, source string, out io.Writer) error {
	if err := runMake(ctx, source, io.Discard, "defconfig"); err != nil {
		return err
	}
	path := filepath.Join(source, ".config")
	config, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(configured(string(config))), 0o644); err != nil {
		return err
	}
	if err := runMake(ctx, source, io.Discard, "oldconfig"); err != nil {
		return err
	}
	return runMake(ctx, source, out, "-j"+strconv.Itoa(runtime.NumCPU()), "busybox")
}

// configured is busybox's default configuration, linked statically and without tc, which newer kernels' headers lack the
// constants for.
func configured(config string) string {
	return strings.NewReplacer("# CONFIG_STATIC is not set\n", "CONFIG_STATIC=y\n", "CONFIG_TC=y\n", "# CONFIG_TC is not set\n").Replace(config)
}

// runMake runs busybox's make with a clean environment: an outer make would pass on its flags and variables.
func runMake(ctx context.Context, dir string, out io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, "make", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C"}
	cmd.Stdin = strings.NewReader(strings.Repeat("\n", 1000)) // oldconfig asks about each new option: the default
	var end tail
	both := io.MultiWriter(out, &end) // one writer for both streams, so that it is never called concurrently
	cmd.Stdout, cmd.Stderr = both, both
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("make %s: %w: %s", strings.Join(args, " "), err, &end)
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct{ text []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-1000):]
	return len(p), nil
}

func (t *tail) String() string { return string(t.text) }
