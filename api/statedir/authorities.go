package statedir

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrOtherAuthorities says that the directory has authorities of its own.
var ErrOtherAuthorities = errors.New("it has the authorities of another cluster")

// Authorities returns the content of the files that all control planes of a cluster have in common, by their paths below the directory:
// the CAs with their keys, the key of service accounts' tokens, and the keys of secrets, if km made them. Everything else a control
// plane makes itself. With these files, anyone can become anything in the cluster.
func (d Dir) Authorities() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, path := range d.authorityFiles() {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && !slices.Contains([]string{d.CA(), d.CAKey(), d.ServiceAccountKey()}, path) {
			continue // not every cluster has each
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the cluster's authorities: %w", err)
		}
		name, err := filepath.Rel(string(d), path)
		if err != nil {
			return nil, fmt.Errorf("cannot read the cluster's authorities: %w", err)
		}
		files[name] = data
	}
	return files, nil
}

// authorityFiles are their paths. A CA that replaces another one has more files for a while.
func (d Dir) authorityFiles() []string {
	files := []string{d.ServiceAccountKey(), d.path("pki", "sa.pub"), d.EncryptionConfig()}
	for _, name := range []string{clusterAuthority, frontProxyAuthority, etcdAuthority, kubeletServingAuthority} {
		files = append(files, d.cert(name), d.key(name), d.cert(name+"-issuer"))
	}
	return files
}

// ImportAuthorities writes what Authorities returned elsewhere. Files that are there with the same content stay; the error is
// ErrOtherAuthorities if one has another content, and then nothing is written.
func (d Dir) ImportAuthorities(files map[string][]byte) error {
	known := d.authorityFiles()
	for name, data := range files {
		path := d.path(name)
		if !filepath.IsLocal(name) || !slices.Contains(known, path) {
			return fmt.Errorf("cannot import %q: no control plane of this version has such a file", name)
		}
		old, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot import the cluster's authorities: %w", err)
		}
		if err == nil && !bytes.Equal(old, data) {
			return fmt.Errorf("cannot import the cluster's authorities to %s: %w in %s: give another --state-dir, or move this one away",
				d, ErrOtherAuthorities, name)
		}
	}
	// The CA's certificate comes last: a control plane without it would make all anew, and an import that was interrupted is repeated.
	names := slices.SortedFunc(func(yield func(string) bool) {
		for name := range files {
			if !yield(name) {
				return
			}
		}
	}, func(a, b string) int {
		last := filepath.Join("pki", clusterAuthority+".crt")
		switch {
		case a == last:
			return 1
		case b == last:
			return -1
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		if err := writeFile(d.path(name), files[name]); err != nil {
			return err
		}
	}
	return nil
}

// HasAuthorities reports whether a control plane has run or was joined in the directory.
func (d Dir) HasAuthorities() bool {
	_, err := os.Stat(d.CA())
	return err == nil
}
