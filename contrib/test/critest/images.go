package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/docker/docker/api/types/image"

	"github.com/k8sm/k8sm/contrib/test/images"
	"github.com/k8sm/k8sm/contrib/test/suite"
)

// e2eImages is the prefix of images that are already in the Engine, so that the suite does not pull them.
const e2eImages = "registry.k8s.io/e2e-test-images/"

// digestImage is the one that the suite pulls by its digest.
const digestImage = "test-image-digest:test"

// layers of the images.
type layers struct {
	base      images.Layer
	standIn   images.Layer // as nginx and as web, in /srv
	setuid    images.Layer // the same with the setuid bit
	moreGroup images.Layer // a group more in /etc/group
	marks     map[string]images.Layer
}

func readLayers(ctx context.Context, busybox, standIn string) (l layers, err error) {
	program, err := os.ReadFile(standIn)
	if err != nil {
		return l, err
	}
	if l.base, err = images.BusyboxLayer(ctx, busybox); err != nil {
		return l, err
	}
	add := func(files ...images.File) (layer images.Layer) {
		if err == nil {
			layer, err = images.NewLayer(files...)
		}
		return layer
	}
	l.standIn = add(images.File{Name: "srv/web", Mode: 0o755, Data: program}, images.File{Name: "srv/nginx", Mode: 0o755, Link: "srv/web"})
	l.setuid = add(images.File{Name: "srv/web", Mode: 0o4755, Data: program})
	l.moreGroup = add(images.File{Name: "etc/group", Mode: 0o644, Data: []byte(images.Group + "group-defined-in-image:x:50000:default-user\n")})
	l.marks = map[string]images.Layer{}
	for _, mark := range []string{"latest", "1", "2", "3", "tag", "all", "digest", "tags"} {
		l.marks[mark] = add(images.File{Name: "mark", Mode: 0o644, Data: []byte(mark + "\n")})
	}
	return l, err
}

// environment is that of all images.
var environment = []string{"PATH=/bin:/usr/bin:/sbin"}

// presentImages are those that the suite finds in the Engine
// (https://github.com/kubernetes-sigs/cri-tools/blob/v1.30.0/pkg/validate/consts.go).
func presentImages(l layers) []images.Image {
	base, web := []images.Layer{l.base}, []images.Layer{l.base, l.standIn}
	named := func(name string, layers []images.Layer, command ...string) images.Image {
		return images.Image{Names: []string{e2eImages + name}, Layers: layers, Env: environment, Cmd: command}
	}
	return []images.Image{
		named("busybox:1.29-2", base, "sh"),
		named("nginx:1.14-2", web, "/srv/nginx", "serve", "80", "nginx: master process"),
		named("httpd:2.4.39-4", web, "/srv/web", "serve", "80", "httpd -D FOREGROUND"),
		named("nonewprivs:1.3", []images.Layer{l.base, l.setuid}, "/srv/web", "uid"),
	}
}

// pulledImages are those that the suite pulls from the registry at an address.
func pulledImages(l layers, address string) []images.Image {
	plain := func(mark string, names ...string) images.Image {
		return images.Image{Names: names, Layers: []images.Layer{l.base, l.marks[mark]}, Env: environment, Cmd: []string{"sh"}}
	}
	user := func(name, user string) images.Image {
		return images.Image{Names: []string{name}, Layers: []images.Layer{l.base}, Env: environment, Cmd: []string{"sh"}, User: user}
	}
	group := user("test-image-predefined-group:latest", "1000")
	group.Layers = []images.Layer{l.base, l.moreGroup}
	images := []images.Image{
		{Names: []string{"hostnet-nginx-" + runtime.GOARCH + ":latest"}, Layers: []images.Layer{l.base, l.standIn}, Env: environment,
			Cmd: []string{"/srv/nginx", "serve", "12003"}},
		group,
		user("test-image-user-uid:latest", "1002"),
		user("test-image-user-username:latest", "www-data"),
		user("test-image-user-uid-group:latest", "1003:1003"),
		user("test-image-user-username-group:latest", "www-data:www-data"),
		plain("latest", "test-image-latest:latest"),
		plain("1", "test-image-1:latest"),
		plain("2", "test-image-2:latest"),
		plain("3", "test-image-3:latest"),
		plain("tag", "test-image-tag:test"),
		plain("all", "test-image-tag:all"),
		plain("digest", digestImage),
		plain("tags", "test-image-tags:1", "test-image-tags:2", "test-image-tags:3"),
	}
	for i := range images {
		for n := range images[i].Names {
			images[i].Names[n] = address + "/" + images[i].Names[n]
		}
	}
	return images
}

// makeImages builds all images, loads them into the Engine, and starts the registry with those to pull.
func (h *harness) makeImages(ctx context.Context) error {
	l, err := readLayers(ctx, h.busybox, h.standIn)
	if err != nil {
		return err
	}
	if h.registry, err = suite.StartRegistry(ctx, h.registryProgram, h.dir, filepath.Join(h.build, "registry.log")); err != nil {
		return err
	}
	h.undo.Add(func(context.Context) error { return h.registry.Stop() })
	pulled := pulledImages(l, h.registry.Address)
	if err := images.Load(ctx, h.docker, append(presentImages(l), pulled...)...); err != nil {
		return err
	}
	for _, i := range pulled {
		for _, name := range i.Names {
			if err := h.publish(ctx, name); err != nil {
				return err
			}
		}
	}
	if h.digest == "" {
		return errors.New("no digest came back for " + digestImage)
	}
	return nil
}

// publish moves an image from the Engine to the registry.
func (h *harness) publish(ctx context.Context, name string) error {
	digest, err := suite.Push(ctx, h.docker, name)
	if err != nil {
		return err
	}
	fmt.Printf("  %s %s\n", name, digest)
	if strings.HasSuffix(name, "/"+digestImage) {
		h.digest = digest
	}
	_, err = h.docker.ImageRemove(ctx, name, image.RemoveOptions{})
	return err
}
