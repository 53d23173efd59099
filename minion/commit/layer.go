package commit

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// Names by which layers say that a file of the layers below is deleted, or that of a directory only this layer's files count
// (https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts).
const (
	deletedPrefix = ".wh."
	opaqueName    = ".wh..wh..opq"
)

// writeLayer writes the snapshot to a file as a layer of an image, compressed.
func (s *snapshot) writeLayer(file string) (err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	zip, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(zip)
	names := map[uint64]string{} // of files that have several
	for _, e := range s.entries {
		if err := s.writeEntry(archive, e, names); err != nil {
			return fmt.Errorf("cannot write %s to the layer: %w", e.path, err)
		}
	}
	return errors.Join(archive.Close(), zip.Close())
}

func (s *snapshot) writeEntry(archive *tar.Writer, e entry, names map[uint64]string) error {
	header := e.header()
	switch e.stat.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return nil // as Docker: a socket without its program is nothing
	case unix.S_IFCHR:
		if e.stat.Rdev == 0 { // overlayfs' sign of a deleted file
			dir, name := path.Split(e.path)
			return archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: dir + deletedPrefix + name, Mode: 0o600, ModTime: header.ModTime})
		}
	case unix.S_IFREG:
		return s.writeFile(archive, e, header, names)
	}
	if err := archive.WriteHeader(header); err != nil || !e.opaque {
		return err
	}
	return archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: header.Name + opaqueName, Mode: 0o600, ModTime: header.ModTime})
}

// writeFile writes a regular file; its second name is a link to the first.
func (s *snapshot) writeFile(archive *tar.Writer, e entry, header *tar.Header, names map[uint64]string) error {
	if e.stat.Nlink > 1 {
		if first := names[e.stat.Ino]; first != "" {
			header.Typeflag, header.Linkname = tar.TypeLink, first
			return archive.WriteHeader(header)
		}
		names[e.stat.Ino] = e.path
	}
	content, err := os.Open(s.content(e.stat.Ino))
	if err != nil {
		return err
	}
	defer content.Close()
	info, err := content.Stat()
	if err != nil {
		return err
	}
	header.Size = info.Size()
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, content)
	return err
}

// header describes the entry, without a size.
func (e entry) header() *tar.Header {
	header := &tar.Header{
		Name: e.path, Linkname: e.link, Mode: int64(e.stat.Mode & 0o7777), Uid: int(e.stat.Uid), Gid: int(e.stat.Gid),
		ModTime: time.Unix(e.stat.Mtim.Unix()), Format: tar.FormatPAX,
	}
	switch e.stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		header.Typeflag, header.Name = tar.TypeDir, e.path+"/"
	case unix.S_IFLNK:
		header.Typeflag = tar.TypeSymlink
	case unix.S_IFIFO:
		header.Typeflag = tar.TypeFifo
	case unix.S_IFCHR:
		header.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		header.Typeflag = tar.TypeBlock
	default:
		header.Typeflag = tar.TypeReg
	}
	if header.Typeflag == tar.TypeChar || header.Typeflag == tar.TypeBlock {
		header.Devmajor, header.Devminor = int64(unix.Major(e.stat.Rdev)), int64(unix.Minor(e.stat.Rdev))
	}
	if e.capability != "" {
		header.PAXRecords = map[string]string{"SCHILY.xattr." + capability: e.capability}
	}
	return header
}
