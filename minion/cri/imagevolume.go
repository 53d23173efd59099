package cri

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/docker/docker/api/types/container"
	"golang.org/x/sync/singleflight"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageVolumes are the file systems of images that are mounted as volumes
// (https://kubernetes.io/docs/concepts/storage/volumes/#image). Engines mount no images before version 28, and how they
// store them differs; so there is a copy of each image that a container mounts, below dir, by the image's id.
type imageVolumes struct {
	dir string
	// using is held for reading from the copy until the container that mounts it is made, and for writing while copies that
	// no container mounts are removed.
	using   sync.RWMutex
	copying singleflight.Group // by image id
}

// imageVolumes returns where the images among the mounts are, by their paths in the container. If there are any, the caller
// holds using.
func (s *Server) imageVolumes(ctx context.Context, mounts []*runtimeapi.Mount) (map[string]string, error) {
	found := map[string]string{}
	for _, m := range mounts {
		if m.GetImage() == nil {
			continue
		}
		source, err := s.imageVolume(ctx, m)
		if err != nil {
			return nil, err
		}
		found[m.GetContainerPath()] = source
	}
	return found, nil
}

// imageVolume returns the directory to mount for an image or a path in it.
func (s *Server) imageVolume(ctx context.Context, m *runtimeapi.Mount) (string, error) {
	image, err := s.docker.ImageInspect(ctx, m.GetImage().GetImage())
	if err != nil {
		return "", fmt.Errorf("cannot mount image %s at %s: %w", m.GetImage().GetImage(), m.GetContainerPath(), err)
	}
	volume := filepath.Join(s.volumes.dir, strings.TrimPrefix(image.ID, "sha256:"))
	_, err, _ = s.volumes.copying.Do(image.ID, func() (any, error) {
		if exists(volume) {
			return nil, nil
		}
		return nil, s.copyImage(ctx, image.ID, volume)
	})
	if err != nil {
		return "", fmt.Errorf("cannot mount image %s at %s: %w", m.GetImage().GetImage(), m.GetContainerPath(), err)
	}
	// A link in the image must not lead to the host's files.
	source, err := securejoin.SecureJoin(volume, m.GetImageSubPath())
	if err != nil || !exists(source) {
		return "", refuse("there is no %s in image %s", m.GetImageSubPath(), m.GetImage().GetImage())
	}
	return source, nil
}

// copyImage copies an image's files into a new directory, which is there only when the copy is whole. Only a container's
// files can be had from the Engine, so there is one for a while, which never runs.
func (s *Server) copyImage(ctx context.Context, id, to string) (err error) {
	labels, err := s.owner.labels(kindCopy, nil, nil)
	if err != nil {
		return err
	}
	c, err := s.docker.ContainerCreate(ctx, &container.Config{Image: id, Cmd: []string{"none"}, Labels: labels}, &container.HostConfig{NetworkMode: "none"}, nil, nil, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.remove(context.WithoutCancel(ctx), c.ID)) }()
	files, err := s.docker.ContainerExport(ctx, c.ID)
	if err != nil {
		return err
	}
	defer files.Close()
	if err := os.MkdirAll(s.volumes.dir, 0o700); err != nil {
		return err
	}
	partial := to + ".partial"
	if err := errors.Join(os.RemoveAll(partial), os.Mkdir(partial, 0o755)); err != nil {
		return err
	}
	if err := unpack(files, partial); err != nil {
		return errors.Join(err, os.RemoveAll(partial))
	}
	return os.Rename(partial, to)
}

// unpack writes what a tar archive holds below dir, and nothing anywhere else. Devices and the setuid bit stay behind: a
// volume is for reading.
func unpack(archive io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var folders []*tar.Header
	for r := tar.NewReader(archive); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = unpackOne(root, header, r)
		}
		if err != nil {
			return fmt.Errorf("cannot copy an image's files: %w", err)
		}
		if header.Typeflag == tar.TypeDir {
			folders = append(folders, header)
		}
	}
	for _, header := range folders { // at the end, should one be read-only
		if err := root.Chmod(filepath.Clean(header.Name), header.FileInfo().Mode()&(os.ModePerm|os.ModeSticky)); err != nil {
			return fmt.Errorf("cannot copy an image's files: %w", err)
		}
	}
	return nil
}

func unpackOne(root *os.Root, header *tar.Header, content io.Reader) error {
	name := filepath.Clean(header.Name)
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeDir:
		if err := root.MkdirAll(name, 0o755); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := root.Symlink(header.Linkname, name); err != nil {
			return err
		}
	case tar.TypeLink:
		return root.Link(filepath.Clean(header.Linkname), name)
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		if err := errors.Join(err, f.Chmod(header.FileInfo().Mode().Perm()), f.Close()); err != nil {
			return err
		}
	default:
		return nil
	}
	return root.Lchown(name, header.Uid, header.Gid)
}

// removeUnusedVolumes removes the copies of images that no container mounts any more. Where there is none it waits for nobody:
// every removal of a container asks, and a container that is being made may take long to copy its image.
func (s *Server) removeUnusedVolumes(ctx context.Context) error {
	if copies, err := os.ReadDir(s.volumes.dir); errors.Is(err, os.ErrNotExist) || err == nil && len(copies) == 0 {
		return nil
	}
	s.volumes.using.Lock()
	defer s.volumes.using.Unlock()
	copies, err := os.ReadDir(s.volumes.dir)
	if err != nil {
		return err
	}
	list, err := s.view.list(ctx, kindContainer, "", "")
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, c := range list {
		for _, m := range c.Mounts {
			if below, found := strings.CutPrefix(m.Source, s.volumes.dir+"/"); found {
				id, _, _ := strings.Cut(below, "/")
				used[id] = true
			}
		}
	}
	for _, entry := range copies {
		if !used[entry.Name()] {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.volumes.dir, entry.Name())))
		}
	}
	return err
}

// tidyVolumes removes what can be removed. What cannot is tried again with the next container.
func (s *Server) tidyVolumes(ctx context.Context) {
	if err := s.removeUnusedVolumes(ctx); err != nil {
		s.log.WithError(err).Warn("cannot remove the copies of images that no container mounts any more")
	}
}

// removeCopies removes the containers that a server which was killed was reading images from.
func (s *Server) removeCopies(ctx context.Context) {
	ids, err := s.view.ask(ctx, kindCopy, "", "")
	for _, id := range ids {
		err = errors.Join(err, s.remove(ctx, id))
	}
	if err != nil {
		s.log.WithError(err).Warn("cannot remove the containers that images were copied from")
	}
}
