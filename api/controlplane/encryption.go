package controlplane

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	encryptioncontroller "k8s.io/apiserver/pkg/server/options/encryptionconfig/controller"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/statedir"
)

// reloadKeys is how often the API server looks for a changed encryption configuration.
const reloadKeys = 2 * time.Second

func init() { encryptioncontroller.EncryptionConfigFileChangePollDuration = reloadKeys }

// ownsKey reports whether km makes the key that secrets are encrypted with. Several control planes on one etcd need the same key, so
// with an existing etcd the operator gives it, or each gets that of the first with the cluster's authorities.
func (c Config) ownsKey() bool {
	if c.EncryptionConfig != "" {
		return false
	}
	_, err := os.Stat(c.StateDir.EncryptionConfig())
	_, managed := c.managedEtcd()
	return err == nil || managed || c.embeds()
}

// beginEncrypted makes the key if an existing etcd has no secret yet. Where there are secrets, other control planes may run that have
// no key, and could not read what is encrypted.
func (c Config) beginEncrypted(ctx context.Context) error {
	if c.ownsKey() || c.EncryptionConfig != "" {
		return nil
	}
	client, err := etcd.Dial(c.existingEtcd())
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	secrets, err := client.Get(ctx, secretsPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("cannot look for secrets in etcd: %w", err)
	}
	if secrets.Count > 0 {
		return nil
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	return writeKeys(c.StateDir, []apiserverv1.Key{key})
}

// encryptionFlags adds the flags of kube-apiserver
// (https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/).
func (c Config) encryptionFlags(f flags) {
	switch {
	case c.EncryptionConfig != "":
		f["encryption-provider-config"] = c.EncryptionConfig
	case c.ownsKey():
		f["encryption-provider-config"] = c.StateDir.EncryptionConfig()
	default:
		return
	}
	f["encryption-provider-config-automatic-reload"] = "true"
}

// checkEncryption finds errors in the operator's file before anything starts.
func (c Config) checkEncryption() error {
	if c.EncryptionConfig == "" {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // ends what a KMS plugin needs
	if _, err := encryptionconfig.LoadEncryptionConfig(ctx, c.EncryptionConfig, true, "check"); err != nil {
		return fmt.Errorf("cannot use --encryption-provider-config: %w", err)
	}
	return nil
}

// prepareEncryption makes the cluster's key, unless it exists or is the operator's. It notes that there may be secrets from before.
func (c Config) prepareEncryption() error {
	if !c.ownsKey() {
		if c.EncryptionConfig == "" {
			logrus.Warn("secrets are not encrypted in etcd: it had some before there was a key. Give the same --encryption-provider-config to all control planes of this etcd")
		}
		return nil
	}
	_, err := os.Stat(c.StateDir.EncryptionConfig())
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := c.StateDir.WriteEncryptionUnfinished(); err != nil {
		return err
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	return writeKeys(c.StateDir, []apiserverv1.Key{key})
}

// encryptOldSecrets encrypts, once in a cluster's life, the secrets from before it had a key. It does not block.
func (c Config) encryptOldSecrets(ctx context.Context) error {
	if !c.ownsKey() {
		return nil
	}
	if _, err := os.Stat(c.StateDir.EncryptionUnfinished()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	keys, err := readKeys(c.StateDir)
	if err != nil {
		return err
	}
	r, err := newRewriter(c.StateDir, keys[0])
	if err != nil {
		return err
	}
	defer r.close()
	if err := r.run(ctx); err != nil {
		return err
	}
	return os.Remove(c.StateDir.EncryptionUnfinished())
}

// RotateKey makes a new key for the cluster's secrets, rewrites them with it, and forgets the old key. The control plane must run. If
// it is interrupted, all secrets can be read, and the next call goes on where it was.
func RotateKey(ctx context.Context, dir statedir.Dir) error {
	if _, err := readKeys(dir); err != nil { // before there is a file for the lock
		return err
	}
	unlock, err := dir.Lock("rotate-key")
	if err != nil {
		return err
	}
	defer func() { _ = unlock() }()
	keys, err := readKeys(dir)
	if err != nil {
		return err
	}
	if len(keys) == 1 { // else the first key is that of a call that was interrupted
		key, err := newKey()
		if err != nil {
			return err
		}
		keys = append([]apiserverv1.Key{key}, keys...)
	}
	r, err := newRewriter(dir, keys[0])
	if err != nil {
		return err
	}
	defer r.close()
	if err := r.reachable(ctx); err != nil {
		return err
	}
	if err := r.alone(ctx); err != nil {
		return err
	}
	if err := writeKeys(dir, keys); err != nil {
		return err
	}
	if err := r.run(ctx); err != nil {
		return fmt.Errorf("%w; the old key is kept, and all secrets can be read: try again", err)
	}
	return writeKeys(dir, keys[:1])
}

// newKey returns a random key, named after the time.
func newKey() (apiserverv1.Key, error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return apiserverv1.Key{}, fmt.Errorf("cannot make a key: %w", err)
	}
	name := "key-" + strings.ReplaceAll(time.Now().UTC().Format("20060102-150405.000"), ".", "-")
	return apiserverv1.Key{Name: name, Secret: base64.StdEncoding.EncodeToString(secret)}, nil
}

// writeKeys writes the keys. The first encrypts, each decrypts, and what is not encrypted can be read.
func writeKeys(dir statedir.Dir, keys []apiserverv1.Key) error {
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

// readKeys returns what writeKeys wrote.
func readKeys(dir statedir.Dir) ([]apiserverv1.Key, error) {
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

// secretsPrefix is where kube-apiserver keeps secrets in etcd.
const secretsPrefix = "/registry/secrets/"

// rewriter writes all secrets again until each is encrypted with the key.
type rewriter struct {
	api    kubernetes.Interface
	etcd   *clientv3.Client
	prefix string // of values that are encrypted with the key
}

func newRewriter(dir statedir.Dir, key apiserverv1.Key) (*rewriter, error) {
	admin, err := clientcmd.BuildConfigFromFlags("", dir.AdminKubeconfig())
	if err != nil {
		return nil, fmt.Errorf("cannot read the administrator's kubeconfig: %w", err)
	}
	admin.QPS, admin.Burst = 200, 400
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		return nil, fmt.Errorf("cannot create a client for the API server: %w", err)
	}
	access, err := dir.Etcd()
	if err != nil {
		return nil, err
	}
	access.CertFile, access.KeyFile = dir.Pair(statedir.APIServerEtcdClient) // that which may read Kubernetes' objects
	objects, err := etcd.Dial(access)
	if err != nil {
		return nil, err
	}
	return &rewriter{api: client, etcd: objects, prefix: "k8s:enc:secretbox:v1:" + key.Name + ":"}, nil
}

func (r *rewriter) close() { _ = r.etcd.Close() }

// probe is a secret that always exists while secrets are rewritten. Once it is encrypted with the key, the API server uses the key.
const probe = "k8sm-encryption-probe"

// rewriteTimeout bounds how long secrets are rewritten without an end.
const rewriteTimeout = 10 * time.Minute

// reachable makes the probe.
func (r *rewriter) reachable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: probe, Namespace: metav1.NamespaceSystem}}
	_, err := r.api.CoreV1().Secrets(secret.Namespace).Create(ctx, secret, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("cannot write secrets: %w; the control plane must run", err)
	}
	return nil
}

// alone returns an error if several API servers run: the others would not have the new key, and could not read what has it.
func (r *rewriter) alone(ctx context.Context) error {
	servers, err := runningServers(ctx, r.etcd)
	if err != nil || len(servers) < 2 {
		return err
	}
	return fmt.Errorf("cannot rotate the key while API servers run at %s: they would not get it. Stop all but the one on this machine, rotate, copy encryption.json to the others, and start them",
		strings.Join(servers, ", "))
}

// run blocks until all secrets in etcd are encrypted with the key.
func (r *rewriter) run(ctx context.Context) error {
	if err := r.reachable(ctx); err != nil {
		return err
	}
	left := 0
	err := wait.PollUntilContextTimeout(ctx, reloadKeys/4, rewriteTimeout, true, func(ctx context.Context) (bool, error) {
		if err := r.pass(ctx); err != nil {
			return false, err
		}
		var err error
		left, err = r.left(ctx)
		return left == 0, err
	})
	if err != nil {
		return fmt.Errorf("cannot rewrite %d secrets: %w", left, err)
	}
	err = r.api.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, probe, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot delete the secret %s: %w", probe, err)
	}
	return nil
}

// pass writes each secret as it is. The API server writes it to etcd only if it is not encrypted with the first key.
func (r *rewriter) pass(ctx context.Context) error {
	options := metav1.ListOptions{Limit: 500}
	for {
		list, err := r.api.CoreV1().Secrets(metav1.NamespaceAll).List(ctx, options)
		if err != nil {
			return err
		}
		for i := range list.Items {
			secret := &list.Items[i]
			_, err := r.api.CoreV1().Secrets(secret.Namespace).Update(ctx, secret, metav1.UpdateOptions{})
			if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) { // another writer had it written
				return fmt.Errorf("secret %s/%s: %w", secret.Namespace, secret.Name, err)
			}
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return nil
		}
	}
}

// left counts the secrets that are not encrypted with the key.
func (r *rewriter) left(ctx context.Context) (count int, err error) {
	end := clientv3.GetPrefixRangeEnd(secretsPrefix)
	for from := secretsPrefix; ; {
		page, err := r.etcd.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(500))
		if err != nil {
			return 0, fmt.Errorf("cannot read secrets in etcd: %w", err)
		}
		for _, kv := range page.Kvs {
			if !strings.HasPrefix(string(kv.Value), r.prefix) {
				count++
			}
			from = string(kv.Key) + "\x00"
		}
		if !page.More {
			return count, nil
		}
	}
}
