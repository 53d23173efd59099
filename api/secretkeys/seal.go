package secretkeys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/k8sm/k8sm/api/statedir"
)

// purpose makes the derived key another than any that is derived from the CA's for something else.
const purpose = "k8sm: the keys of secrets on their way to all control planes"

// sealer returns the cipher of what is for the control planes of a cluster only, by a key of the CA. Who has that can become any of them.
func sealer(keyFile string) (cipher.AEAD, error) {
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the CA's key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("cannot read the CA's key: %s is no PEM file", keyFile)
	}
	key, err := hkdf.Key(sha256.New, block.Bytes, nil, purpose, 32)
	if err != nil {
		return nil, fmt.Errorf("cannot derive a key: %w", err)
	}
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(c)
}

// Seal encrypts what is for the control planes of a cluster only. Open fails unless it is told what was said beside it.
func Seal(dir statedir.Dir, plain, said []byte) ([]byte, error) {
	c, err := sealer(dir.CAKey())
	if err != nil {
		return nil, err
	}
	return c.Seal(nil, nil, plain, said), nil
}

// Open decrypts what Seal returned. The error is ErrOtherCA if it was sealed with another key, or if something else was said. While a CA
// is replaced, other control planes may have sealed it with its other key.
func Open(dir statedir.Dir, sealed, said []byte) ([]byte, error) {
	for _, file := range dir.CAKeys() {
		c, err := sealer(file)
		if err != nil {
			return nil, err
		}
		if plain, err := c.Open(nil, nil, sealed, said); err == nil {
			return plain, nil
		}
	}
	return nil, ErrOtherCA
}

// ErrOtherCA says that something was sealed with another key than that of the CA here.
var ErrOtherCA = errors.New("it was sealed by a control plane with another key of the CA")

// said is what is sealed with the keys: the ring's other fields.
func (r ring) said() ([]byte, error) {
	r.Sealed = nil
	return json.Marshal(r)
}

// seal puts the ring's keys into it.
func (r ring) seal(dir statedir.Dir, keys []Key) (ring, error) {
	if !r.has(keys) {
		return r, fmt.Errorf("cannot seal the keys of secrets: of %v only %v are in %s; does its control plane run?", r.Names, names(keys), dir)
	}
	secret := slices.DeleteFunc(slices.Clone(keys), func(k Key) bool { return !slices.Contains(r.Names, k.Name) })
	plain, err := json.Marshal(secret)
	if err != nil {
		return r, fmt.Errorf("cannot encode the keys: %w", err)
	}
	said, err := r.said()
	if err != nil {
		return r, err
	}
	r.Sealed, err = Seal(dir, plain, said)
	return r, err
}

// open returns the keys in the ring.
func (r ring) open(dir statedir.Dir) (keys []Key, err error) {
	said, err := r.said()
	if err != nil {
		return nil, err
	}
	plain, err := Open(dir, r.Sealed, said)
	if err != nil {
		return nil, fmt.Errorf("cannot read the keys of secrets in etcd: %w; copy encryption.json of one that runs", err)
	}
	if err := json.Unmarshal(plain, &keys); err != nil {
		return nil, fmt.Errorf("cannot read the keys in etcd: %w", err)
	}
	return keys, nil
}
