package statedir

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/util/keyutil"
)

// ServiceAccountKey signs the tokens of service accounts.
func (d Dir) ServiceAccountKey() string { return d.path("pki", "sa.key") }

// ServiceAccountKeys has the public keys that verify these tokens: that of ServiceAccountKey, and while it is being replaced the next or
// the former one. Prepare writes it.
func (d Dir) ServiceAccountKeys() string { return d.path("pki", "sa.pub") }

// nextServiceAccountKey is the key that will sign tokens; oldServiceAccountKey is the public key of the one that did.
func (d Dir) nextServiceAccountKey() string { return d.path("pki", "sa-next.key") }
func (d Dir) oldServiceAccountKey() string  { return d.path("pki", "sa-old.pub") }

// TokenKeys are the ids of the keys of service accounts' tokens, as tokens have them in their header (kid). Next is "" unless a next key
// is trusted already, and Old is "" unless a former key is trusted still. There is never both.
type TokenKeys struct {
	Current, Next, Old string
	// Replaced is when the former key was replaced, if there is one.
	Replaced time.Time
}

// TokenKeys returns the keys in the directory.
func (d Dir) TokenKeys() (keys TokenKeys, err error) {
	current, err := readKey(d.ServiceAccountKey())
	if errors.Is(err, fs.ErrNotExist) {
		return keys, d.NoCluster()
	}
	if err != nil {
		return keys, err
	}
	if keys.Current, err = keyID(current.Public()); err != nil {
		return keys, err
	}
	next, err := readKey(d.nextServiceAccountKey())
	if err == nil {
		keys.Next, err = keyID(next.Public())
		return keys, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return keys, err
	}
	info, err := os.Stat(d.oldServiceAccountKey())
	if errors.Is(err, fs.ErrNotExist) {
		return keys, nil
	}
	if err != nil {
		return keys, err
	}
	old, err := keyutil.PublicKeysFromFile(d.oldServiceAccountKey())
	if err != nil {
		return keys, fmt.Errorf("cannot read the former key of tokens: %w", err)
	}
	keys.Replaced = info.ModTime()
	keys.Old, err = keyID(old[0])
	return keys, err
}

// keyID is what Kubernetes calls a key in tokens.
func keyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("cannot encode a public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// AddTokenKey makes the next key, which API servers trust from their next start on. It changes nothing if there is one already.
func (d Dir) AddTokenKey() error {
	return d.changeTokenKeys(func() error {
		_, err := d.privateKey(d.nextServiceAccountKey())
		return err
	})
}

// UseTokenKey makes the next key the one that signs tokens, from the next start of the control plane on. The former one stays trusted.
func (d Dir) UseTokenKey() error {
	return d.changeTokenKeys(func() error {
		current, err := readKey(d.ServiceAccountKey())
		if err != nil {
			return err
		}
		text, err := encodePublic(current.Public())
		if err != nil {
			return err
		}
		if err := writeFile(d.oldServiceAccountKey(), text); err != nil {
			return err
		}
		return os.Rename(d.nextServiceAccountKey(), d.ServiceAccountKey())
	})
}

// ForgetTokenKey ends the trust in the former key, from the next start of the API servers on.
func (d Dir) ForgetTokenKey() error {
	return d.changeTokenKeys(func() error { return discard(d.oldServiceAccountKey()) })
}

// tokenKeyFiles are the files that all control planes must have in common, and in which order they change: tokens of the former key stay
// good whenever a start finds only some of them changed.
func (d Dir) tokenKeyFiles() []string {
	return []string{d.oldServiceAccountKey(), d.ServiceAccountKey(), d.nextServiceAccountKey()}
}

// TokenKeyFiles returns the content of the files of TokenKeys, by their names.
func (d Dir) TokenKeyFiles() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, path := range d.tokenKeyFiles() {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the keys of tokens: %w", err)
		}
		files[filepath.Base(path)] = data
	}
	return files, nil
}

// ImportTokenKeys makes the files those of another control plane, where TokenKeys has this time. Programs that run keep the keys that they
// have until they start again.
func (d Dir) ImportTokenKeys(files map[string][]byte, replaced time.Time) error {
	if len(files[filepath.Base(d.ServiceAccountKey())]) == 0 {
		return errors.New("cannot import the keys of tokens: the one that signs is missing")
	}
	return d.changeTokenKeys(func() error {
		for _, path := range d.tokenKeyFiles() {
			change := discard
			if data, there := files[filepath.Base(path)]; there {
				change = func(path string) error { return writeChanged(path, data) }
			}
			if err := change(path); err != nil {
				return err
			}
		}
		if _, there := files[filepath.Base(d.oldServiceAccountKey())]; there {
			return os.Chtimes(d.oldServiceAccountKey(), time.Time{}, replaced)
		}
		return nil
	})
}

func (d Dir) changeTokenKeys(change func() error) (err error) {
	unlock, err := d.lockPKI()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := change(); err != nil {
		return fmt.Errorf("cannot change the key of tokens: %w", err)
	}
	return d.writeTokenKeys()
}

// writeTokenKeys makes the key if it is missing, and writes ServiceAccountKeys. While a key is replaced, both are in the file before and
// after each step, so that a start at any moment trusts the tokens that there are.
func (d Dir) writeTokenKeys() error {
	current, err := d.privateKey(d.ServiceAccountKey())
	if err != nil {
		return err
	}
	all, err := encodePublic(current.Public())
	if err != nil {
		return err
	}
	next, err := readKey(d.nextServiceAccountKey())
	switch {
	case err == nil:
		text, err := encodePublic(next.Public())
		if err != nil {
			return err
		}
		all = append(all, text...)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	old, err := os.ReadFile(d.oldServiceAccountKey())
	switch {
	case err == nil && !bytes.Contains(all, old):
		all = append(all, old...)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("cannot read the former key of tokens: %w", err)
	}
	return writeChanged(d.ServiceAccountKeys(), all)
}

func encodePublic(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode a public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
