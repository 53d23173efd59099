package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/jsonmessage"
)

// File is one entry of an image's layer.
type File struct {
	// Name is relative to the image's root; one that ends in a slash is a directory.
	Name string
	// Mode is as chmod(1) has it: permissions and the setuid and sticky bits.
	Mode int64
	Data []byte
	// Link is the name of the earlier file that this one is a hard link to, if it is one.
	Link string
}

// Layer is the file system of an image, or what is added to it. It is immutable; images may share it.
type Layer struct {
	archive []byte
	sum     string
}

// NewLayer makes a layer of files. The same files make the same layer: nothing in it tells when it was made.
func NewLayer(files ...File) (Layer, error) {
	archive, err := tarOf(files)
	if err != nil {
		return Layer{}, fmt.Errorf("cannot make an image's layer: %w", err)
	}
	sum := sha256.Sum256(archive)
	return Layer{archive: archive, sum: hex.EncodeToString(sum[:])}, nil
}

func tarOf(files []File) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		header := &tar.Header{Name: f.Name, Mode: f.Mode, Size: int64(len(f.Data)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.Name, "/") {
			header.Typeflag = tar.TypeDir
		} else if f.Link != "" {
			header.Typeflag, header.Linkname = tar.TypeLink, f.Link
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// The users that the suites' images have.
const (
	passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
default-user:x:1000:1000::/home:/bin/sh
nobody:x:65534:65534:nobody:/home:/bin/false
`
	// Group is the content of the busybox layer's /etc/group.
	Group = `root:x:0:
daemon:x:1:
www-data:x:33:
default-user:x:1000:
nobody:x:65534:
`
)

// BusyboxLayer is a root file system around the program that Busybox built: each applet is a hard link to it in /bin.
func BusyboxLayer(ctx context.Context, program string) (Layer, error) {
	applets, err := exec.CommandContext(ctx, program, "--list").Output()
	if err != nil {
		return Layer{}, fmt.Errorf("cannot ask busybox for its applets: %w", err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return Layer{}, fmt.Errorf("cannot read busybox: %w", err)
	}
	var files []File
	for _, dir := range []string{"bin/", "etc/", "home/", "mnt/", "root/", "srv/", "usr/", "usr/bin/", "var/", "var/run/", "var/www/"} {
		files = append(files, File{Name: dir, Mode: 0o755})
	}
	files = append(files, File{Name: "tmp/", Mode: 0o1777},
		File{Name: "etc/passwd", Mode: 0o644, Data: []byte(passwd)}, File{Name: "etc/group", Mode: 0o644, Data: []byte(Group)},
		File{Name: "bin/busybox", Mode: 0o755, Data: data})
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			files = append(files, File{Name: "bin/" + applet, Mode: 0o755, Link: "bin/busybox"})
		}
	}
	return NewLayer(files...)
}

// Image is an image for the platform that this program runs on.
type Image struct {
	// Names are all names with tags that the one image gets.
	Names  []string
	Layers []Layer
	// Entrypoint, Cmd, Env and User are what Docker's image configuration has by these names.
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
}

// Load brings images into a Docker Engine.
func Load(ctx context.Context, docker *client.Client, images ...Image) error {
	archive, err := imageArchive(images)
	if err != nil {
		return fmt.Errorf("cannot make images: %w", err)
	}
	loaded, err := docker.ImageLoad(ctx, bytes.NewReader(archive), client.ImageLoadWithQuiet(true))
	if err != nil {
		return fmt.Errorf("cannot load images into Docker Engine: %w", err)
	}
	defer loaded.Body.Close()
	if err := jsonmessage.DisplayJSONMessagesStream(loaded.Body, io.Discard, 0, false, nil); err != nil {
		return fmt.Errorf("cannot load images into Docker Engine: %w", err)
	}
	return nil
}

// imageArchive is what `docker load` reads
// (https://github.com/moby/docker-image-spec/blob/main/spec.md#combined-image-json--filesystem-changeset-format).
func imageArchive(images []Image) ([]byte, error) {
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var files []File
	var manifest []entry
	seen := map[string]bool{}
	for i, image := range images {
		e := entry{Config: fmt.Sprintf("config-%d.json", i), RepoTags: image.Names}
		for _, layer := range image.Layers {
			name := layer.sum + ".tar"
			e.Layers = append(e.Layers, name)
			if !seen[name] {
				seen[name] = true
				files = append(files, File{Name: name, Mode: 0o644, Data: layer.archive})
			}
		}
		config, err := image.config()
		if err != nil {
			return nil, err
		}
		files = append(files, File{Name: e.Config, Mode: 0o644, Data: config})
		manifest = append(manifest, e)
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return nil, err
	}
	return tarOf(append(files, File{Name: "manifest.json", Mode: 0o644, Data: data}))
}

// config is the image's configuration (https://github.com/moby/docker-image-spec/blob/main/spec.md#image-json-description).
func (i Image) config() ([]byte, error) {
	var sums []string
	for _, layer := range i.Layers {
		sums = append(sums, "sha256:"+layer.sum)
	}
	return json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": i.Entrypoint, "Cmd": i.Cmd, "Env": i.Env, "User": i.User},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": sums},
	})
}
