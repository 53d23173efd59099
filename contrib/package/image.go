package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// writeImage writes a container image with nothing but km, as the tar of an OCI layout
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md) that `docker load` of old Engines can read, too. It
// returns its file.
func (b build) writeImage() (string, error) {
	image, err := b.image()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.made, "image")
	ref := "k8sm/km:" + strings.ReplaceAll(packageVersion(b.version), "+", "-") // a tag has no +
	named := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{
		Platform:    &v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Annotations: map[string]string{"io.containerd.image.name": "docker.io/" + ref, "org.opencontainers.image.ref.name": ref},
	}})
	if _, err := layout.Write(dir, named); err != nil {
		return "", err
	}
	if err := describeToDocker(dir, ref, image); err != nil {
		return "", err
	}
	file := filepath.Join(b.out, fmt.Sprintf("k8sm_%s_%s.oci.tar", packageVersion(b.version), runtime.GOARCH))
	out, err := os.Create(file)
	if err != nil {
		return "", err
	}
	archive := tar.NewWriter(out)
	return file, errors.Join(archive.AddFS(os.DirFS(dir)), archive.Close(), out.Close())
}

// image returns an image of km, an empty /tmp, and a place for certificates and data.
func (b build) image() (v1.Image, error) {
	layer, err := tarball.LayerFromOpener(b.layer)
	if err != nil {
		return nil, err
	}
	image, err := mutate.Append(empty.Image, mutate.Addendum{Layer: layer, History: v1.History{CreatedBy: "k8sm", Created: v1.Time{Time: b.time}}})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", runtime.GOARCH, v1.Time{Time: b.time}
	config.Config = v1.Config{
		Entrypoint: []string{"/usr/bin/km"},
		Env:        []string{"PATH=/usr/bin"},
		Volumes:    map[string]struct{}{"/var/lib/k8sm": {}},
		Labels: map[string]string{
			"org.opencontainers.image.title":    "k8sm",
			"org.opencontainers.image.source":   "https://github.com/k8sm/k8sm",
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.version":  b.version,
		},
	}
	return mutate.ConfigFile(image, config)
}

// layer returns the image's files as a tar.
func (b build) layer() (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(b.writeLayer(w)) }()
	return r, nil
}

func (b build) writeLayer(out io.Writer) error {
	archive := tar.NewWriter(out)
	for _, dir := range []tar.Header{
		{Name: "tmp/", Mode: 0o1777}, {Name: "usr/", Mode: 0o755}, {Name: "usr/bin/", Mode: 0o755},
		{Name: "var/", Mode: 0o755}, {Name: "var/lib/", Mode: 0o755}, {Name: "var/lib/k8sm/", Mode: 0o700},
	} {
		dir.Typeflag, dir.ModTime = tar.TypeDir, b.time
		if err := archive.WriteHeader(&dir); err != nil {
			return err
		}
	}
	km, err := os.Open(b.km)
	if err != nil {
		return err
	}
	defer km.Close()
	info, err := km.Stat()
	if err != nil {
		return err
	}
	header := tar.Header{Typeflag: tar.TypeReg, Name: "usr/bin/km", Mode: 0o755, Size: info.Size(), ModTime: b.time}
	if err := archive.WriteHeader(&header); err != nil {
		return err
	}
	_, err = io.Copy(archive, km)
	return errors.Join(err, archive.Close())
}

// describeToDocker adds the file by which `docker load` finds the image's parts in the layout.
func describeToDocker(dir, ref string, image v1.Image) error {
	config, err := image.ConfigName()
	if err != nil {
		return err
	}
	entry := tarball.Descriptor{Config: blob(config), RepoTags: []string{ref}}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return err
		}
		entry.Layers = append(entry.Layers, blob(digest))
	}
	text, err := json.Marshal(tarball.Manifest{entry})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "manifest.json"), text, 0o644)
}

// blob is a file of an OCI layout.
func blob(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
