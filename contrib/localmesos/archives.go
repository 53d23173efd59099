package localmesos

import (
	"archive/tar"
	"archive/zip"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// unpack extracts an archive into a directory, by the suffix of the file's name. It reports whether it knows the suffix.
// The suffixes are those of extract in Mesos's src/launcher/fetcher.cpp. xz is not supported.
func unpack(from, to string) (known bool, err error) {
	ends := func(with ...string) bool {
		for _, end := range with {
			if strings.HasSuffix(from, end) {
				return true
			}
		}
		return false
	}
	switch {
	case ends(".txz", ".tar.xz"):
		return true, errors.New("the local Mesos cannot unpack xz")
	case ends(".zip"):
		return true, unzip(from, to)
	case ends(".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".gz"):
	default:
		return false, nil
	}
	file, err := os.Open(from)
	if err != nil {
		return true, err
	}
	defer file.Close()
	var plain io.Reader = file
	switch {
	case ends("gz"):
		if plain, err = gzip.NewReader(file); err != nil {
			return true, err
		}
	case ends("bz2"):
		plain = bzip2.NewReader(file)
	}
	if ends(".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2") {
		return true, untar(plain, to)
	}
	return true, writeAll(filepath.Join(to, strings.TrimSuffix(filepath.Base(from), ".gz")), 0o644, plain)
}

func untar(from io.Reader, to string) error {
	files := tar.NewReader(from)
	for {
		header, err := files.Next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case header.Typeflag == tar.TypeDir:
			err = unpackFile(to, header.Name+"/", 0, nil)
		case header.Typeflag == tar.TypeReg:
			err = unpackFile(to, header.Name, header.FileInfo().Mode().Perm(), files)
		default:
			err = fmt.Errorf("%s is neither a file nor a directory; the local Mesos unpacks only these", header.Name)
		}
		if err != nil {
			return err
		}
	}
}

func unzip(from, to string) error {
	archive, err := zip.OpenReader(from)
	if err != nil {
		return err
	}
	defer archive.Close()
	for _, file := range archive.File {
		content, err := file.Open()
		if err != nil {
			return err
		}
		err = unpackFile(to, file.Name, file.Mode().Perm(), content)
		if err = errors.Join(err, content.Close()); err != nil {
			return err
		}
	}
	return nil
}

// unpackFile writes a file below the directory, or creates a directory if the name ends in a slash.
func unpackFile(below, name string, mode os.FileMode, content io.Reader) error {
	if !filepath.IsLocal(name) {
		return fmt.Errorf("its file %q would be outside the sandbox", name)
	}
	path := filepath.Join(below, name)
	if strings.HasSuffix(name, "/") {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return writeAll(path, mode, content)
}
