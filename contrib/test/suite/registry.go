package suite

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/jsonmessage"
)

// Registry is a running Docker registry (https://distribution.github.io/distribution/).
type Registry struct {
	// Address is HOST:PORT, on loopback unless RegistryAccess says otherwise. Docker Engine trusts loopback without TLS.
	Address string
	// Stop ends it. It must be called once.
	Stop func() error
}

// RegistryAccess says who reaches a registry, and how. The zero value is plain HTTP on loopback, at any port, for everybody.
type RegistryAccess struct {
	// Address is HOST:PORT to listen on.
	Address string
	// CertFile and KeyFile are for TLS.
	CertFile, KeyFile string
	// HtpasswdFile has the users, with bcrypt.
	HtpasswdFile string
}

// config is the registry's configuration file (https://distribution.github.io/distribution/about/configuration/).
func (a RegistryAccess) config(dir string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %q\n", filepath.Join(dir, "registry"), cmp.Or(a.Address, "127.0.0.1:0"))
	if a.CertFile != "" {
		fmt.Fprintf(&text, "  tls:\n    certificate: %s\n    key: %s\n", a.CertFile, a.KeyFile)
	}
	if a.HtpasswdFile != "" {
		fmt.Fprintf(&text, "auth:\n  htpasswd:\n    realm: test\n    path: %s\n", a.HtpasswdFile)
	}
	return text.String()
}

// StartRegistry starts the registry, a program, with its files in dir, for everybody on this machine. What it says goes into the log, a
// file.
func StartRegistry(ctx context.Context, program, dir, log string) (*Registry, error) {
	return StartRegistryFor(ctx, RegistryAccess{}, program, dir, log)
}

// StartRegistryFor is StartRegistry for those whom access says.
func StartRegistryFor(ctx context.Context, access RegistryAccess, program, dir, log string) (*Registry, error) {
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("cannot find the registry program; install it with contrib/install-deps critest: %w", err)
	}
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "registry.yml")
	if err := os.WriteFile(file, []byte(access.config(dir)), 0o600); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	living, cancel := context.WithCancel(context.WithoutCancel(ctx))
	watch := &addressWriter{out: out, found: make(chan string, 1)}
	ended := make(chan error, 1)
	go func() { ended <- RunChild(living, watch, nil, program, "serve", file) }()
	stop := func() error {
		cancel()
		return errors.Join(<-ended, out.Close())
	}
	select {
	case address := <-watch.found:
		return &Registry{Address: address, Stop: stop}, nil
	case err := <-ended:
		cancel()
		return nil, errors.Join(fmt.Errorf("the registry ended at once (%w); see %s", err, log), out.Close())
	case <-time.After(20 * time.Second):
		return nil, errors.Join(errors.New("the registry does not say where it listens"), stop())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), stop())
	}
}

// listening is what the registry logs once it serves.
var listening = regexp.MustCompile(`msg="listening on (\S+:\d+)(?:, tls)?"`)

// addressWriter passes on what the registry logs, and finds its address there: only the kernel knows a free port.
type addressWriter struct {
	out   io.Writer
	found chan string // gets the address, once
	text  []byte      // the beginning of the log, until the address was in it
	done  bool
}

func (w *addressWriter) Write(p []byte) (int, error) {
	if !w.done {
		w.text = append(w.text, p...)
		if m := listening.FindSubmatch(w.text); m != nil {
			w.done, w.text = true, nil
			w.found <- string(m[1])
		}
	}
	return w.out.Write(p)
}

// Push copies an image from a Docker Engine to the registry that its name says, which wants no login, and returns the
// digest that the image has there.
func Push(ctx context.Context, docker *client.Client, name string) (digest string, err error) {
	access := base64.URLEncoding.EncodeToString([]byte("{}"))
	progress, err := docker.ImagePush(ctx, name, image.PushOptions{RegistryAuth: access})
	if err != nil {
		return "", fmt.Errorf("cannot push %s: %w", name, err)
	}
	defer progress.Close()
	if err := jsonmessage.DisplayJSONMessagesStream(progress, io.Discard, 0, false, nil); err != nil {
		return "", fmt.Errorf("cannot push %s: %w", name, err)
	}
	// An Engine with containerd's image store tells the digest to nobody who pushes.
	there, err := docker.DistributionInspect(ctx, name, access)
	if err != nil {
		return "", fmt.Errorf("cannot find %s in the registry: %w", name, err)
	}
	return there.Descriptor.Digest.String(), nil
}
