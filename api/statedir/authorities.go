package statedir

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	certutil "k8s.io/client-go/util/cert"
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
	for _, name := range authorityNames {
		files = append(files, d.cert(name), d.key(name), d.crossed(name), d.nextKey(name), d.oldKey(name))
	}
	return files
}

// ImportAuthorities writes what Authorities returned elsewhere. Files that are there with the same content stay. CAs that are being
// replaced in the same cluster follow; then all certificates do, too. The error is ErrOtherAuthorities if a file has another content,
// and then nothing is written.
func (d Dir) ImportAuthorities(files map[string][]byte, now time.Time) (err error) {
	unlock, err := d.lockPKI()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	here := d.HasAuthorities()
	if err := d.importable(files); err != nil {
		return err
	}
	before, err := d.Authorities()
	if here && err == nil && maps.EqualFunc(before, files, bytes.Equal) {
		return nil
	}
	for _, name := range slices.SortedFunc(maps.Keys(files), importOrder(here)) {
		if err := writeChanged(d.path(name), files[name]); err != nil {
			return err
		}
	}
	if !here {
		return nil
	}
	return d.followAuthorities(now)
}

// importable returns an error unless the files may be written.
func (d Dir) importable(files map[string][]byte) error {
	known, replaced := d.authorityFiles(), d.replacedFiles(files)
	for name, data := range files {
		path := d.path(name)
		if !filepath.IsLocal(name) || !slices.Contains(known, path) {
			return fmt.Errorf("cannot import %q: no control plane of this version has such a file", name)
		}
		old, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot import the cluster's authorities: %w", err)
		}
		if err == nil && !bytes.Equal(old, data) && !slices.Contains(replaced, path) {
			return fmt.Errorf("cannot import the cluster's authorities to %s: %w in %s: give another --state-dir, or move this one away",
				d, ErrOtherAuthorities, name)
		}
	}
	return nil
}

// replacedFiles are the files of CAs here that may change, because the files of elsewhere have a certificate of the same CA.
func (d Dir) replacedFiles(files map[string][]byte) (paths []string) {
	for _, name := range authorityNames {
		here, err := certutil.CertsFromFile(d.cert(name))
		if err != nil {
			continue
		}
		there, err := certutil.ParseCertsPEM(files[filepath.Join("pki", name+".crt")])
		if err == nil && slices.ContainsFunc(here, func(c *x509.Certificate) bool { return slices.ContainsFunc(there, c.Equal) }) {
			paths = append(paths, d.cert(name), d.key(name), d.crossed(name), d.nextKey(name), d.oldKey(name))
		}
	}
	return paths
}

// importOrder is the order in which files are written. At first, the certificate of the cluster's CA comes last: a control plane without
// it would make all anew, and an import that was interrupted is repeated. Later, the key that signs comes after its certificate.
func importOrder(here bool) func(a, b string) int {
	last := func(name string) bool {
		if here {
			return slices.Contains(authorityNames, strings.TrimSuffix(filepath.Base(name), ".key"))
		}
		return name == filepath.Join("pki", clusterAuthority+".crt")
	}
	return func(a, b string) int {
		switch {
		case last(a) == last(b):
			return strings.Compare(a, b)
		case last(a):
			return 1
		}
		return -1
	}
}

// HasAuthorities reports whether a control plane has run or was joined in the directory.
func (d Dir) HasAuthorities() bool {
	_, err := os.Stat(d.CA())
	return err == nil
}
