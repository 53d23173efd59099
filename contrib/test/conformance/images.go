package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/k8sm/k8sm/contrib/test/images"
	"github.com/k8sm/k8sm/contrib/test/suite"
)

// The registries that the suite names, by the keys of its list of registries
// (https://github.com/kubernetes/kubernetes/blob/v1.36.3/test/utils/image/manifest.go). The images of the first are pulled
// from ours; those of the second are in the Engine under their own name.
const (
	e2eRegistryKey = "promoterE2eRegistry"
	e2eFolder      = "e2e-test-images"
	coreRegistry   = "registry.k8s.io"
)

// layers are what the images are made of.
type layers struct {
	base, tools, resolver, agnhost, kitten, nautilus, nonewprivs, sampleAPIServer, etcd, pause images.Layer
}

// tools are programs that cases call in agnhost's image, as its own build installs them.
var tools = []string{"bash", "curl", "dig", "getent", "hostname", "ip", "nc", "ss"}

// release is what the cases of image volumes want to read there: that the image is made on Alpine Linux.
const release = "NAME=\"stand-in for Alpine Linux\"\nID=k8sm-conformance\n"

func (h *harness) readLayers(ctx context.Context) (l layers, err error) {
	if l.base, err = images.BusyboxLayer(ctx, h.busybox); err != nil {
		return l, err
	}
	if l.tools, err = images.ProgramsLayer(ctx, tools...); err != nil {
		return l, err
	}
	// Without it, getent would not look at /etc/hosts for a name that the DNS says is none.
	if l.resolver, err = images.NewLayer(images.File{Name: "etc/nsswitch.conf", Mode: 0o644, Data: []byte("hosts: files dns\n")}); err != nil {
		return l, err
	}
	files, err := h.sources(ctx)
	if err != nil {
		return l, err
	}
	layer := func(files ...images.File) (made images.Layer) {
		if err == nil {
			made, err = images.NewLayer(files...)
		}
		return made
	}
	read := func(path, name string, mode int64) images.File {
		var data []byte
		if err == nil {
			data, err = os.ReadFile(path)
		}
		return images.File{Name: name, Mode: mode, Data: data}
	}
	program := func(name, path string) images.File { return read(filepath.Join(h.build, name), path, 0o755) }
	l.agnhost = layer(program("agnhost", "agnhost"), images.File{Name: "agnhost-2", Mode: 0o755, Link: "agnhost"},
		images.File{Name: "uploads/", Mode: 0o777}, images.File{Name: "etc/os-release", Mode: 0o644, Data: []byte(release)},
		images.File{Name: "etc/group", Mode: 0o644, Data: []byte(images.Group + "group-defined-in-image:x:50000:default-user\n")},
		read(files+"/agnhost/porter/localhost.crt", "localhost.crt", 0o644), read(files+"/agnhost/porter/localhost.key", "localhost.key", 0o644))
	l.kitten = layer(read(files+"/kitten/html/kitten.jpg", "kitten.jpg", 0o644), read(files+"/kitten/html/data.json", "data.json", 0o644))
	l.nautilus = layer(read(files+"/nautilus/html/nautilus.jpg", "nautilus.jpg", 0o644), read(files+"/nautilus/html/data.json", "data.json", 0o644))
	setuid := program("nonewprivs", "usr/local/bin/nnp")
	setuid.Mode = 0o6755
	l.nonewprivs = layer(setuid)
	l.sampleAPIServer = layer(program("sample-apiserver", "sample-apiserver"))
	l.etcd = layer(program("etcd", "usr/local/bin/etcd"))
	l.pause = layer(read(h.pause, "pause", 0o755))
	return l, err
}

// sources is where Kubernetes keeps what its images are made of.
func (h *harness) sources(ctx context.Context) (string, error) {
	var out strings.Builder
	err := suite.RunGo(ctx, filepath.Join(h.build, "suite"), &out, "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes")
	return filepath.Join(strings.TrimSpace(out.String()), "test", "images"), err
}

// environment is that of all images.
var environment = []string{"PATH=/usr/local/bin:/bin:/usr/bin:/sbin:/usr/sbin"}

// pulledImages are those that the suite gets from the registry for its own images, by their names there.
func pulledImages(l layers) []images.Image {
	image := func(name string, layers ...images.Layer) images.Image {
		return images.Image{Names: []string{name}, Layers: append([]images.Layer{l.base}, layers...), Env: environment, Cmd: []string{"sh"}}
	}
	agnhost := func(command string, names []string, layers ...images.Layer) images.Image {
		i := image(names[0], append([]images.Layer{l.tools, l.resolver, l.agnhost}, layers...)...)
		i.Names, i.Entrypoint, i.Cmd = names, []string{"/agnhost"}, []string{command}
		return i
	}
	nonroot := image("nonroot:1.5")
	nonroot.User = "1234"
	nonewprivs := image("nonewprivs:1.4", l.nonewprivs)
	nonewprivs.Cmd = []string{"nnp"}
	server := image("sample-apiserver:1.29.2", l.sampleAPIServer)
	server.Entrypoint, server.Cmd = []string{"/sample-apiserver"}, nil
	return []images.Image{
		image("busybox:1.37.0-1"), image("glibc-dns-testing:2.0.0", l.tools, l.resolver), nonroot, nonewprivs, server,
		agnhost("pause", []string{"agnhost:2.63.0", "agnhost:2.55"}),
		agnhost("test-webserver", []string{"kitten:1.8"}, l.kitten),
		agnhost("test-webserver", []string{"nautilus:1.8"}, l.nautilus),
		agnhost("test-webserver", []string{"nginx:1.15-4", "nginx:1.27-0"}),
	}
}

// presentImages are those that the suite finds in the Engine.
func presentImages(l layers) []images.Image {
	return []images.Image{
		{Names: []string{coreRegistry + "/pause:3.10.2"}, Layers: []images.Layer{l.pause}, Entrypoint: []string{"/pause"}},
		{Names: []string{coreRegistry + "/etcd:3.6.8-0"}, Layers: []images.Layer{l.base, l.etcd}, Env: environment, Cmd: []string{"etcd"}},
	}
}

// makeImages brings all images to where the suite looks for them, and starts the registry for that.
func (h *harness) makeImages(ctx context.Context) error {
	l, err := h.readLayers(ctx)
	if err != nil {
		return err
	}
	if h.registry, err = suite.StartRegistry(ctx, h.registryProgram, h.dir, filepath.Join(h.build, "registry.log")); err != nil {
		return err
	}
	h.undo.Add(func(context.Context) error { return h.registry.Stop() })
	pulled := pulledImages(l)
	for _, image := range pulled {
		for n := range image.Names {
			image.Names[n] = h.registry.Address + "/" + e2eFolder + "/" + image.Names[n]
		}
	}
	if err := images.Load(ctx, h.docker, append(presentImages(l), pulled...)...); err != nil {
		return err
	}
	for _, image := range pulled {
		for _, name := range image.Names {
			if _, err := suite.Push(ctx, h.docker, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeRepoList tells the suite where its images are.
func (h *harness) writeRepoList() (string, error) {
	path := h.path("repositories.yaml")
	return path, os.WriteFile(path, fmt.Appendf(nil, "%s: %s/%s\n", e2eRegistryKey, h.registry.Address, e2eFolder), 0o644)
}
