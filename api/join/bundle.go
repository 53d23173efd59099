// Package join brings the authorities of a cluster to the machine of its next control plane: in a file that is encrypted with a
// passphrase, or through the API server of the first, with a token.
//
// A token has four parts. With the first two, a bootstrap token of Kubernetes, the next machine may get and delete two Secrets of
// kube-system, and nothing else. One of them has the authorities, encrypted with the third part, which is stored nowhere: who may read
// Secrets in kube-system sees the ciphertext only. The fourth part is the cluster's CA, so that the next machine says its token to no
// other server. This is how kubeadm's --upload-certs works
// (https://kubernetes.io/docs/setup/production-environment/tools/kubeadm/high-availability/), but with the whole CA for its hash: k8sm's API
// servers show their CA to nobody without credentials, so a hash alone could check nothing.
//
// The next machine deletes both Secrets when it has the authorities. Then the token is void; it is anyway when its time is over, after
// which the control plane deletes them. Somebody who has a whole token before can join once: treat it as the CA's key.
//
// Encryption is age's (https://age-encryption.org/v1): an operator can open the file with that program, too.
//
// Start reading at Issue and Fetch.
package join

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/k8sm/k8sm/api/statedir"
)

const (
	// mostBytes bounds a bundle: one has about 10 KB.
	mostBytes = 512 << 10
	// workFactor is that of age's own command for people's passphrases: about a second on a machine of today. A bundle with more is
	// refused. A passphrase of 160 random bits needs no work.
	workFactor   = 18
	randomFactor = 10
)

// Seal returns the authorities in the directory, encrypted with a person's passphrase, as text.
func Seal(dir statedir.Dir, passphrase string) ([]byte, error) {
	return seal(dir, passphrase, workFactor)
}

func seal(dir statedir.Dir, passphrase string, factor int) ([]byte, error) {
	files, err := dir.Authorities()
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(files)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the cluster's authorities: %w", err)
	}
	recipient, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, fmt.Errorf("cannot encrypt the cluster's authorities: %w", err)
	}
	recipient.SetWorkFactor(factor)
	var text bytes.Buffer
	armored := armor.NewWriter(&text)
	sealed, err := age.Encrypt(armored, recipient)
	if err != nil {
		return nil, fmt.Errorf("cannot encrypt the cluster's authorities: %w", err)
	}
	_, err = sealed.Write(plain)
	if err := errors.Join(err, sealed.Close(), armored.Close()); err != nil {
		return nil, fmt.Errorf("cannot encrypt the cluster's authorities: %w", err)
	}
	return text.Bytes(), nil
}

// ErrPassphrase says that a bundle was encrypted with another passphrase.
var ErrPassphrase = errors.New("the passphrase is wrong")

// Open writes what Seal returned elsewhere into the directory. The error is ErrPassphrase, statedir.ErrOtherAuthorities or another.
func Open(dir statedir.Dir, sealed []byte, passphrase string) error {
	files, err := unseal(sealed, passphrase)
	if err != nil {
		return err
	}
	return dir.ImportAuthorities(files, time.Now())
}

// unseal returns the files of the authorities.
func unseal(sealed []byte, passphrase string) (files map[string][]byte, err error) {
	identity, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, fmt.Errorf("cannot decrypt the cluster's authorities: %w", err)
	}
	identity.SetMaxWorkFactor(workFactor)
	plain, err := age.Decrypt(armor.NewReader(bytes.NewReader(sealed)), identity)
	var other *age.NoIdentityMatchError
	if errors.As(err, &other) {
		return nil, fmt.Errorf("cannot decrypt the cluster's authorities: %w", ErrPassphrase)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot decrypt the cluster's authorities: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(plain, mostBytes+1))
	if err == nil && len(data) > mostBytes {
		err = errors.New("they are too large")
	}
	if err == nil {
		err = json.Unmarshal(data, &files)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the cluster's authorities: %w", err)
	}
	return files, nil
}
