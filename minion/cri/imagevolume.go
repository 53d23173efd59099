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

// imageVolumes are images mounted as volumes (https://kubernetes.io/docs/concepts/storage/volumes/#image). Engines before version 28
// cannot mount images, and they store images in different ways. So dir has a copy of each mounted image, by the image's id.
type imageVolumes struct {
	dir string
	// using is read-locked from the copy until the container that mounts it is created, and write-locked while unused copies are
	// removed.
	using   sync.RWMutex
	copying singleflight.Group // by image id
}

// imageVolumes returns the directories of the mounted images, by the mounts' paths in the container. If there are any, it returns
// with using read-locked.
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

// imageVolume returns the directory to mount for an image, or for a path in it.
func (s *Server) imageVolume(ctx context.Context, m *runtimeapi.Mount) (string, error) {
	image, err := s.docker.ImageInspect(ctx, s.engineName(ctx, m.GetImage().GetImage()))
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
	// A symlink in the image must not lead to the host's files.
	source, err := securejoin.SecureJoin(volume, m.GetImageSubPath())
	if err != nil || !exists(source) {
		return "", refuse("path %s does not exist in image %s", m.GetImageSubPath(), m.GetImage().GetImage())
	}
	return source, nil
}

// copyImage copies an image's files into a new directory, which appears only when the copy is complete. The Engine exports only the
// files of containers, so it creates one for the copy, which never runs.
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

// unpack extracts a tar archive below dir, and never outside. It skips devices and setuid bits: the volume is read-only.
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
	for _, header := range folders { // last, because a folder may be read-only
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

// removeUnusedVolumes removes the copies of images that no container mounts any more. Without any copy it takes no lock: it runs for
// every container removal, and must not wait for a container whose image is being copied.
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

// tidyVolumes removes unused volumes. It tries again with the next container.
func (s *Server) tidyVolumes(ctx context.Context) {
	if err := s.removeUnusedVolumes(ctx); err != nil {
		s.log.WithError(err).Warn("cannot remove the copies of images that no container mounts any more")
	}
}

// removeCopies removes the containers from which a killed server was copying images.
func (s *Server) removeCopies(ctx context.Context) {
	ids, err := s.view.ask(ctx, kindCopy, "", "")
	for _, id := range ids {
		err = errors.Join(err, s.remove(ctx, id))
	}
	if err != nil {
		s.log.WithError(err).Warn("cannot remove the containers from which images were copied")
	}
}
