// Package secretkeys knows the keys that secrets are encrypted with: the file of a state directory that has them, and how all control
// planes of a cluster get a new one in order. While a key is replaced, etcd has the keys as a ring: names as text, and the keys
// themselves sealed with a key that is derived from the CA's, which every control plane has and no other user of etcd. Each control
// plane takes the ring over, and notes in etcd which keys its API server uses. It must never import k8s.io/kubernetes.
//
// Start reading at Rotation.Run, which replaces a key, and at Server, which is its other side.
package secretkeys

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"github.com/k8sm/k8sm/api/statedir"
)

// Key is one of them. Its name is written beside what it encrypts.
type Key = apiserverv1.Key

// New returns a random key, named after the time.
func New() (Key, error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return Key{}, fmt.Errorf("cannot make a key: %w", err)
	}
	name := "key-" + strings.ReplaceAll(time.Now().UTC().Format("20060102-150405.000"), ".", "-")
	return Key{Name: name, Secret: base64.StdEncoding.EncodeToString(secret)}, nil
}

// Write writes the keys to the state directory, for the API server. The first encrypts, each decrypts, and what is not encrypted can be
// read.
func Write(dir statedir.Dir, keys []Key) error {
	data, err := json.MarshalIndent(apiserverv1.EncryptionConfiguration{
		TypeMeta: metav1.TypeMeta{APIVersion: apiserverv1.SchemeGroupVersion.String(), Kind: "EncryptionConfiguration"},
		Resources: []apiserverv1.ResourceConfiguration{{
			Resources: []string{"secrets"},
			Providers: []apiserverv1.ProviderConfiguration{
				{Secretbox: &apiserverv1.SecretboxConfiguration{Keys: keys}}, {Identity: &apiserverv1.IdentityConfiguration{}},
			},
		}},
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode the keys for secrets: %w", err)
	}
	return dir.WriteEncryptionConfig(append(data, '\n'))
}

// Read returns what Write wrote.
func Read(dir statedir.Dir) ([]Key, error) {
	data, err := os.ReadFile(dir.EncryptionConfig())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot rotate a key: km made none in %s; how to rotate those of --encryption-provider-config: "+
			"https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/#rotating-a-decryption-key", string(dir))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the keys for secrets: %w", err)
	}
	var config apiserverv1.EncryptionConfiguration
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("cannot read the keys for secrets from %s: %w", dir.EncryptionConfig(), err)
	}
	if len(config.Resources) != 1 || len(config.Resources[0].Providers) == 0 || config.Resources[0].Providers[0].Secretbox == nil ||
		len(config.Resources[0].Providers[0].Secretbox.Keys) == 0 {
		return nil, fmt.Errorf("cannot read the keys for secrets from %s: it is not as km wrote it", dir.EncryptionConfig())
	}
	return config.Resources[0].Providers[0].Secretbox.Keys, nil
}

// ring is what etcd has. No ring means that no key was ever replaced.
type ring struct {
	// Names are those of the keys that API servers use: the first encrypts.
	Names []string `json:"names"`
	// Next is the key that is to replace the others, while it does. It is the last one until each API server decrypts with it.
	Next string `json:"next,omitempty"`
	// Retired are keys that nothing is encrypted with any more, the last one at the end.
	Retired []string `json:"retired,omitempty"`
	// Sealed has the keys.
	Sealed []byte `json:"sealed"`
}

// mostRetired is how many names of retired keys are kept.
const mostRetired = 20

// begin makes a ring of one that a state directory has, and the next key.
func begin(keys []Key, retired []string, next Key) (ring, []Key) {
	keys = append(slices.DeleteFunc(slices.Clone(keys), func(k Key) bool { return k.Name == next.Name }), next)
	return ring{Names: names(keys), Next: next.Name, Retired: retired}, keys
}

// spread says that the next key does not encrypt yet.
func (r ring) spread() bool { return r.Next != "" && r.Names[0] != r.Next }

// use makes the next key the one that encrypts.
func (r ring) use() ring {
	others := slices.DeleteFunc(slices.Clone(r.Names), func(name string) bool { return name == r.Next })
	return ring{Names: append([]string{r.Next}, others...), Next: r.Next, Retired: r.Retired}
}

// finish retires all keys but the first.
func (r ring) finish() ring {
	retired := append(slices.Clone(r.Retired), r.Names[1:]...)
	return ring{Names: r.Names[:1], Retired: retired[max(0, len(retired)-mostRetired):]}
}

// over returns the ring's keys, and then those here that the ring does not know: a key is given up only when it is retired. The error
// names a key that is neither here nor in the sealed ones.
func (r ring) over(here, sealed []Key) (keys []Key, err error) {
	for _, name := range r.Names {
		named := func(k Key) bool { return k.Name == name }
		i, j := slices.IndexFunc(here, named), slices.IndexFunc(sealed, named)
		switch {
		case i >= 0:
			keys = append(keys, here[i])
		case j >= 0:
			keys = append(keys, sealed[j])
		default:
			return nil, fmt.Errorf("the key %s of secrets is missing", name)
		}
	}
	for _, k := range here {
		if !slices.Contains(r.Names, k.Name) && !slices.Contains(r.Retired, k.Name) {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// usedAs reports whether an API server that uses keys of these names is where the ring needs it: it has the ring's keys in their order,
// and none that is retired.
func (r ring) usedAs(names []string) bool {
	return len(names) >= len(r.Names) && slices.Equal(names[:len(r.Names)], r.Names) &&
		!slices.ContainsFunc(names, func(name string) bool { return slices.Contains(r.Retired, name) })
}

// has reports whether all keys of the ring are among these.
func (r ring) has(keys []Key) bool {
	return !slices.ContainsFunc(r.Names, func(name string) bool { return !slices.Contains(names(keys), name) })
}

func names(keys []Key) (all []string) {
	for _, k := range keys {
		all = append(all, k.Name)
	}
	return all
}
