package controlplane

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	encryptioncontroller "k8s.io/apiserver/pkg/server/options/encryptionconfig/controller"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/secretkeys"
	"github.com/k8sm/k8sm/api/statedir"
)

// reloadKeys is how often the API server looks for a changed encryption configuration.
const reloadKeys = 500 * time.Millisecond

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
	key, err := secretkeys.New()
	if err != nil {
		return err
	}
	return secretkeys.Write(c.StateDir, []secretkeys.Key{key})
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
	key, err := secretkeys.New()
	if err != nil {
		return err
	}
	return secretkeys.Write(c.StateDir, []secretkeys.Key{key})
}

// encryptOldSecrets encrypts, once in a cluster's life, the secrets from before it had a key. It does not block.
func (c Config) encryptOldSecrets(ctx context.Context) error {
	if !c.ownsKey() {
		return nil
	}
	if _, err := os.Stat(c.StateDir.EncryptionUnfinished()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	keys, err := secretkeys.Read(c.StateDir)
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

// KeyRotation says how the key of secrets is replaced.
type KeyRotation struct {
	// Without are the addresses of control planes that are gone for good, HOST:PORT.
	Without []string
	// Patience is how long a control plane may take to use other keys.
	Patience time.Duration
}

// RotateKey makes a new key for the cluster's secrets, brings it to all control planes, rewrites the secrets with it, and forgets the old
// key. The control plane of the directory must run. If it is interrupted, all secrets can be read, and the next call goes on where it was.
func RotateKey(ctx context.Context, dir statedir.Dir, how KeyRotation) error {
	keys, err := secretkeys.Read(dir) // before there is a file for the lock
	if err != nil {
		return err
	}
	unlock, err := dir.Lock("rotate-key")
	if err != nil {
		return err
	}
	defer func() { _ = unlock() }()
	r, err := newRewriter(dir, keys[0])
	if err != nil {
		return err
	}
	defer r.close()
	if err := r.reachable(ctx); err != nil {
		return err
	}
	rotation := secretkeys.Rotation{
		Client: r.etcd, Dir: dir, Without: how.Without, Patience: how.Patience,
		Running: func(ctx context.Context) ([]string, error) { return runningServers(ctx, r.etcd) },
		Rewrite: func(ctx context.Context, key secretkeys.Key) error {
			r.prefix = encryptedWith(key)
			return r.run(ctx)
		},
	}
	return rotation.Run(ctx)
}

// keysOf returns what tells others of this control plane, and takes the keys of secrets over if they are km's; nil where etcd is another's
// and forbids that. Its API server will have the address. The caller calls done when that has stopped.
func (c Config) keysOf(ctx context.Context, access statedir.Etcd, address string) (server *secretkeys.Server, done func(), err error) {
	client, err := etcd.Dial(access)
	if err != nil {
		return nil, nil, err
	}
	server = &secretkeys.Server{Client: client, Dir: c.StateDir, Address: address, Embeds: c.embeds(), Foreign: !c.ownsKey(), Loaded: usesKeys}
	err = server.Begin(ctx)
	if errors.Is(err, rpctypes.ErrPermissionDenied) {
		logrus.WithError(err).Warn("km secrets rotate-key, km certs rotate-sa-key and rotate-ca cannot work: the certificate for etcd must let km read and write what begins with /k8sm-keys/")
		return nil, func() { _ = client.Close() }, nil
	}
	if err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return server, func() {
		if err := server.End(ctx); err != nil {
			logrus.WithError(err).Warn("km secrets rotate-key, km certs rotate-sa-key and rotate-ca will wait for this control plane")
		}
		_ = client.Close()
	}, nil
}

// usesKeys reports whether the API server in this process uses a file of keys with this content. The API server's metric has its hash
// (https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/#configure-automatic-reloading).
func usesKeys(file []byte) bool {
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		return false
	}
	hash := fmt.Sprintf("sha256:%x", sha256.Sum256(file))
	for _, family := range families {
		if family.GetName() != "apiserver_encryption_config_controller_last_config_info" {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetName() == "hash" && label.GetValue() == hash {
					return true
				}
			}
		}
	}
	return false
}

// secretsPrefix is where kube-apiserver keeps secrets in etcd.
const secretsPrefix = "/registry/secrets/"

// rewriter writes all secrets again until each is encrypted with the key.
type rewriter struct {
	api    kubernetes.Interface
	etcd   *clientv3.Client
	prefix string // of values that are encrypted with the key
}

// encryptedWith begins the values in etcd that are encrypted with the key.
func encryptedWith(key secretkeys.Key) string { return "k8s:enc:secretbox:v1:" + key.Name + ":" }

func newRewriter(dir statedir.Dir, key secretkeys.Key) (*rewriter, error) {
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
	if access.Embedded || access.Managed {
		access.CertFile, access.KeyFile = dir.Pair(statedir.APIServerEtcdClient) // that which may read Kubernetes' objects
	}
	objects, err := etcd.Dial(access)
	if err != nil {
		return nil, err
	}
	return &rewriter{api: client, etcd: objects, prefix: encryptedWith(key)}, nil
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

// run blocks until all secrets in etcd are encrypted with the key.
func (r *rewriter) run(ctx context.Context) error {
	if err := r.reachable(ctx); err != nil {
		return err
	}
	left := 0
	err := wait.PollUntilContextTimeout(ctx, reloadKeys, rewriteTimeout, true, func(ctx context.Context) (bool, error) {
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
