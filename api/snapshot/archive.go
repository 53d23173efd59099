package snapshot

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// A snapshot is a tar file. Its first entry is the manifest, which lists the others with their checksums, in their order.
const (
	manifestFile = "manifest.json"
	// format is the version of the format. A program reads older ones and refuses newer ones.
	format = 1
	// tempPrefix begins the names of folders for unfinished work.
	tempPrefix = ".k8sm-snapshot-"
	// manifestLimit bounds what is read as a manifest.
	manifestLimit = 1 << 20
)

// Manifest says what is in a snapshot.
type Manifest struct {
	Format int `json:"format"`
	// Created is when the snapshot was made.
	Created time.Time `json:"created"`
	// KM is the version of km that made it.
	KM string `json:"km"`
	// CA is the SHA-256 of the certificate of the cluster's CA; "" if that is not in the snapshot, which is one of etcd alone.
	CA   string `json:"ca"`
	Etcd Etcd   `json:"etcd"`
	// OtherKeys are keys of secrets that are not in the snapshot, as PROVIDER/NAME: those of an operator's own encryption
	// configuration.
	OtherKeys []string `json:"otherKeys,omitempty"`
	// Files are all files but the manifest.
	Files []File `json:"files"`
}

// Etcd describes the copy of etcd.
type Etcd struct {
	Version  string `json:"version"`
	Revision int64  `json:"revision"`
	Keys     int    `json:"keys"`
}

// File is a file of a snapshot.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// content is what a file of a snapshot shall have: the data, or those of a file elsewhere.
type content struct {
	name string
	data []byte
	path string
}

func (c content) open() (io.ReadCloser, error) {
	if c.path == "" {
		return io.NopCloser(bytes.NewReader(c.data)), nil
	}
	return os.Open(c.path)
}

// describe reads the content for its size and checksum.
func (c content) describe() (File, error) {
	r, err := c.open()
	if err != nil {
		return File{}, err
	}
	defer r.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, r)
	return File{Name: c.name, Size: size, SHA256: hex.EncodeToString(sum.Sum(nil))}, err
}

// writeArchive completes the manifest and writes the file, which is on the disk when this returns.
func writeArchive(file string, m *Manifest, contents []content) (err error) {
	for _, c := range contents {
		described, err := c.describe()
		if err != nil {
			return err
		}
		m.Files = append(m.Files, described)
	}
	manifest, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	t := tar.NewWriter(out)
	first := content{name: manifestFile, data: append(manifest, '\n')}
	if err := addFile(t, first, File{Name: first.name, Size: int64(len(first.data))}, m.Created); err != nil {
		return err
	}
	for i, c := range contents {
		if err := addFile(t, c, m.Files[i], m.Created); err != nil {
			return err
		}
	}
	if err := t.Close(); err != nil {
		return err
	}
	return out.Sync()
}

func addFile(t *tar.Writer, c content, f File, at time.Time) error {
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.Name, Size: f.Size, Mode: 0o600, ModTime: at}); err != nil {
		return err
	}
	r, err := c.open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(t, r)
	return err
}

// ReadManifest returns the manifest of a snapshot. It reads no more than that.
func ReadManifest(file string) (Manifest, error) {
	in, err := os.Open(file)
	if err != nil {
		return Manifest{}, fmt.Errorf("cannot read the snapshot: %w", err)
	}
	defer in.Close()
	return readManifest(tar.NewReader(in))
}

func readManifest(t *tar.Reader) (m Manifest, err error) {
	header, err := t.Next()
	if err != nil || header.Name != manifestFile {
		return m, fmt.Errorf("it is no snapshot of km: it does not begin with %s", manifestFile)
	}
	data, err := io.ReadAll(io.LimitReader(t, manifestLimit))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("cannot read its manifest: %w", err)
	}
	if m.Format < 1 || m.Format > format {
		return m, fmt.Errorf("it has format %d, and this km reads up to %d: use km %s, which made it, or a later one", m.Format, format, m.KM)
	}
	return m, nil
}

// readArchive extracts a snapshot to an existing folder. What differs from the manifest is an error.
func readArchive(file, folder string) (m Manifest, err error) {
	in, err := os.Open(file)
	if err != nil {
		return m, err
	}
	defer in.Close()
	t := tar.NewReader(in)
	if m, err = readManifest(t); err != nil {
		return m, err
	}
	for i := 0; ; i++ {
		header, err := t.Next()
		if errors.Is(err, io.EOF) {
			if i < len(m.Files) {
				return m, fmt.Errorf("it is not whole: %s is missing", m.Files[i].Name)
			}
			break
		}
		if err != nil {
			return m, fmt.Errorf("it is damaged: %w", err)
		}
		if i >= len(m.Files) || header.Name != m.Files[i].Name || header.Typeflag != tar.TypeReg || !fs.ValidPath(header.Name) {
			return m, fmt.Errorf("it is damaged: %s is not as the manifest says", header.Name)
		}
		if err := extract(t, m.Files[i], filepath.Join(folder, filepath.FromSlash(header.Name))); err != nil {
			return m, err
		}
	}
	if !slices.ContainsFunc(m.Files, func(f File) bool { return f.Name == etcdFile }) {
		return m, fmt.Errorf("it is not whole: %s is missing", etcdFile)
	}
	return m, nil
}

// extract writes a file, and checks it.
func extract(r io.Reader, want File, path string) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(out, sum), r)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("it is not whole: %s ends after %d of %d bytes", want.Name, size, want.Size)
	case err != nil:
		return err
	case size != want.Size || hex.EncodeToString(sum.Sum(nil)) != want.SHA256:
		return fmt.Errorf("it is damaged: the checksum of %s is wrong", want.Name)
	}
	return out.Sync()
}
