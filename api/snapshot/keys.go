package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"github.com/k8sm/k8sm/api/statedir"
)

// keyring is the state directory's encryption configuration. Its first key encrypts, and each decrypts.
type keyring struct {
	config *apiserverv1.EncryptionConfiguration
}

// readKeys reads the keys of a state directory; it may have none.
func readKeys(dir statedir.Dir) (keyring, error) {
	data, err := os.ReadFile(dir.EncryptionConfig())
	if errors.Is(err, fs.ErrNotExist) {
		return keyring{}, nil
	}
	if err != nil {
		return keyring{}, fmt.Errorf("cannot read the keys for secrets: %w", err)
	}
	k := keyring{config: &apiserverv1.EncryptionConfiguration{}}
	if err := json.Unmarshal(data, k.config); err != nil {
		return keyring{}, fmt.Errorf("cannot read the keys for secrets from %s: %w", dir.EncryptionConfig(), err)
	}
	if k.keys() == nil {
		return keyring{}, fmt.Errorf("cannot read the keys for secrets from %s: it is not as km wrote it", dir.EncryptionConfig())
	}
	return k, nil
}

func (k keyring) empty() bool { return k.config == nil }

// keys returns the keys, to be changed in place; nil if there are none.
func (k keyring) keys() *[]apiserverv1.Key {
	if k.config == nil || len(k.config.Resources) != 1 || len(k.config.Resources[0].Providers) == 0 || k.config.Resources[0].Providers[0].Secretbox == nil {
		return nil
	}
	return &k.config.Resources[0].Providers[0].Secretbox.Keys
}

// and returns the keys with those of the other that it lacks, behind its own.
func (k keyring) and(other keyring) keyring {
	mine, theirs := k.keys(), other.keys()
	if mine == nil {
		return other
	}
	if theirs == nil {
		return k
	}
	for _, key := range *theirs {
		if !k.has(nameOf("secretbox", key.Name)) {
			*mine = append(*mine, key)
		}
	}
	return k
}

// has reports whether the key of this name, as usedKeys has it, is there.
func (k keyring) has(name string) bool {
	keys := k.keys()
	return keys != nil && slices.ContainsFunc(*keys, func(key apiserverv1.Key) bool { return nameOf("secretbox", key.Name) == name })
}

func (k keyring) encode() ([]byte, error) {
	data, err := json.MarshalIndent(k.config, "", "  ")
	return append(data, '\n'), err
}

func nameOf(provider, key string) string { return provider + "/" + key }

// encrypted begins each value that the API server has encrypted: "k8s:enc:PROVIDER:VERSION:KEY:"
// (https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/#verifying-that-data-is-encrypted).
var encrypted = []byte("k8s:enc:")

// usedKeys returns the keys that the values in a copy of etcd are encrypted with, sorted. Values from before the last change do not
// count: nobody reads them in a restored etcd.
func usedKeys(file string) ([]string, error) {
	db, err := bolt.Open(file, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("cannot read the copy of etcd: %w", err)
	}
	defer db.Close()
	uses := map[string]string{} // the keys by the names of what they encrypt
	err = db.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(schema.Key.Name())
		if bucket == nil {
			return errors.New("it has no keys")
		}
		return bucket.ForEach(func(revision, value []byte) error {
			var kv mvccpb.KeyValue
			if err := kv.Unmarshal(value); err != nil {
				return err
			}
			parts := bytes.SplitN(kv.Value, []byte(":"), 6)
			if mvcc.IsTombstone(revision) || !bytes.HasPrefix(kv.Value, encrypted) || len(parts) < 6 {
				delete(uses, string(kv.Key))
			} else {
				uses[string(kv.Key)] = nameOf(string(parts[2]), strings.Clone(string(parts[4])))
			}
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the copy of etcd: %w", err)
	}
	return slices.Compact(slices.Sorted(maps.Values(uses))), nil
}
