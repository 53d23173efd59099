package cri

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"runtime"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/jsonmessage"
)

// embedded holds minion/cri/pause if make has built it. The folder always has a file, so that `go build` works without it.
//
//go:embed all:embedded
var embedded embed.FS

// ensureSandboxImage returns the name of an image that the Engine has: the wanted one, pulled if missing, or the embedded one, which
// needs no registry.
func (s *Server) ensureSandboxImage(ctx context.Context, wanted string) (string, error) {
	short, cancel := s.bound(ctx, 0)
	defer cancel()
	if wanted == "" {
		return EmbeddedImage(short, s.docker)
	}
	if _, err := s.docker.ImageInspect(short, wanted); !isNotFound(err) {
		return wanted, err
	}
	if err := s.pull(ctx, wanted, image.PullOptions{}); err != nil {
		return "", fmt.Errorf("cannot pull the sandbox image %s: %w", wanted, err)
	}
	return wanted, nil
}

// EmbeddedImage loads the embedded sandbox image into the Engine and returns its name.
func EmbeddedImage(ctx context.Context, docker *client.Client) (name string, err error) {
	program, err := embedded.ReadFile("embedded/pause")
	if errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("km was built without its sandbox image: build it with make")
	}
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(program)
	name = "k8sm.io/pause:" + hex.EncodeToString(sum[:6]) // a new program is a new image
	if _, err := docker.ImageInspect(ctx, name); !isNotFound(err) {
		return name, err
	}
	archive, err := imageArchive(name, program)
	if err == nil {
		err = loadArchive(ctx, docker, archive)
	}
	if err != nil {
		return "", fmt.Errorf("cannot load the sandbox image into Docker Engine: %w", err)
	}
	return name, nil
}

// loadArchive is `docker load`.
func loadArchive(ctx context.Context, docker *client.Client, archive []byte) error {
	loaded, err := docker.ImageLoad(ctx, bytes.NewReader(archive), client.ImageLoadWithQuiet(true))
	if err != nil {
		return err
	}
	defer loaded.Body.Close()
	return readProgress(loaded.Body, func(jsonmessage.JSONMessage) {})
}

// imageArchive builds the input of `docker load`: an image of one layer with one static program
// (https://github.com/moby/docker-image-spec/blob/main/spec.md#combined-image-json--filesystem-changeset-format).
func imageArchive(name string, program []byte) ([]byte, error) {
	layer, err := tarOf(file{"pause", 0o755, program})
	if err != nil {
		return nil, err
	}
	layerSum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": []string{"/pause"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(layerSum[:])}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	return tarOf(file{"config.json", 0o644, config}, file{"layer.tar", 0o644, layer}, file{"manifest.json", 0o644, manifest})
}

type file struct {
	name string
	mode int64
	data []byte
}

func tarOf(files ...file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
