package join

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
)

const (
	// namePrefix begins the names of the Secret with the authorities, and of the Role and the RoleBinding that let the token read it.
	namePrefix = "k8sm-join-"
	// sealedKey is the key in that Secret.
	sealedKey = "authorities"
	// label marks the bootstrap tokens.
	label = "k8sm.io/join"
	// group has no rights: those of a token are its own.
	group = "system:bootstrappers:k8sm:control-planes"
	// callTimeout bounds one call.
	callTimeout = 15 * time.Second
)

// Token lets one machine join.
type Token struct {
	// ID and Secret are the parts of a bootstrap token.
	ID, Secret string
	// Passphrase decrypts the authorities.
	Passphrase string
	// CA has the certificates of the cluster's CA, as PEM.
	CA []byte
}

// String returns the token as text: one line.
func (t Token) String() string {
	var der []byte
	for block, left := pem.Decode(t.CA); block != nil; block, left = pem.Decode(left) {
		der = append(der, block.Bytes...)
	}
	return strings.Join([]string{t.ID, t.Secret, t.Passphrase, base64.RawURLEncoding.EncodeToString(der)}, ".")
}

// ParseToken parses what String returned.
func ParseToken(text string) (Token, error) {
	wrong := errors.New("cannot read the token: give it as km pki token printed it, in one line")
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != 4 || len(parts[0]) != 6 || len(parts[1]) != 16 || len(parts[2]) < 32 {
		return Token{}, wrong
	}
	for _, part := range parts[:3] {
		if strings.Trim(part, letters) != "" {
			return Token{}, wrong
		}
	}
	der, err := base64.RawURLEncoding.DecodeString(parts[3])
	if err != nil {
		return Token{}, wrong
	}
	certificates, err := x509.ParseCertificates(der)
	if err != nil || len(certificates) == 0 {
		return Token{}, wrong
	}
	t := Token{ID: parts[0], Secret: parts[1], Passphrase: parts[2]}
	for _, c := range certificates {
		t.CA = append(t.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return t, nil
}

// ReadToken reads a token from a file.
func ReadToken(file string) (Token, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Token{}, fmt.Errorf("cannot read --token-file: %w", err)
	}
	t, err := ParseToken(string(text))
	if err != nil {
		return Token{}, fmt.Errorf("cannot use --token-file=%s: %w", file, err)
	}
	return t, nil
}

// letters are those of a token: 32 of them, so that each random byte gives one without a bias.
const letters = "abcdefghijklmnopqrstuvwxyz234567"

func random(length int) string {
	text := make([]byte, length)
	_, _ = rand.Read(text) // it never fails, see its documentation
	for i := range text {
		text[i] = letters[text[i]%32]
	}
	return string(text)
}

// Issue stores the authorities in the directory for one machine that comes with the token until its life is over. client is an
// administrator's.
func Issue(ctx context.Context, client kubernetes.Interface, dir statedir.Dir, life time.Duration) (Token, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ca, err := os.ReadFile(dir.CA())
	if err != nil {
		return Token{}, fmt.Errorf("cannot read the cluster's CA: %w", err)
	}
	t := Token{ID: random(6), Secret: random(16), Passphrase: random(32), CA: ca}
	sealed, err := seal(dir, t.Passphrase, randomFactor)
	if err != nil {
		return Token{}, err
	}
	token, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, t.bootstrap(time.Now().Add(life)), metav1.CreateOptions{})
	if err != nil {
		return Token{}, fmt.Errorf("cannot create a token: %w", err)
	}
	if err := t.offer(ctx, client, sealed, token); err != nil {
		return Token{}, fmt.Errorf("cannot create a token: %w", errors.Join(err, t.end(ctx, client)))
	}
	return t, nil
}

func (t Token) bootstrap(until time.Time) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: api.BootstrapSecretPrefix + t.ID, Labels: map[string]string{label: ""}},
		Type:       corev1.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			"token-id":                       []byte(t.ID),
			"token-secret":                   []byte(t.Secret),
			"expiration":                     []byte(until.UTC().Format(time.RFC3339)),
			"usage-bootstrap-authentication": []byte("true"),
			"auth-extra-groups":              []byte(group),
			"description":                    []byte("k8sm: one more control plane"),
		},
	}
}

// offer creates what goes with the token, and what is deleted with it.
func (t Token) offer(ctx context.Context, client kubernetes.Interface, sealed []byte, token *corev1.Secret) error {
	meta := metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: namePrefix + t.ID, Labels: map[string]string{label: ""},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Secret", Name: token.Name, UID: token.UID}}}
	secret := &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{sealedKey: sealed}}
	if _, err := client.CoreV1().Secrets(meta.Namespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		return err
	}
	rule := func(verbs []string, names ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: names, Verbs: verbs}
	}
	role := &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		rule([]string{"get"}, secret.Name), rule([]string{"delete"}, secret.Name, token.Name),
	}}
	if _, err := client.RbacV1().Roles(meta.Namespace).Create(ctx, role, metav1.CreateOptions{}); err != nil {
		return err
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "system:bootstrap:" + t.ID}},
	}
	_, err := client.RbacV1().RoleBindings(meta.Namespace).Create(ctx, binding, metav1.CreateOptions{})
	return err
}

// Fetch writes the authorities that the token is for into the directory, and ends the token. server is the URL of an API server.
func Fetch(ctx context.Context, server string, t Token, dir statedir.Dir) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: server, BearerToken: t.ID + "." + t.Secret, TLSClientConfig: rest.TLSClientConfig{CAData: t.CA}, UserAgent: "km-join/" + api.Version,
	})
	if err != nil {
		return fmt.Errorf("cannot join %s: %w", server, err)
	}
	secret, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, namePrefix+t.ID, metav1.GetOptions{})
	if err != nil {
		return refusal(server, err)
	}
	files, err := unseal(secret.Data[sealedKey], t.Passphrase)
	if err != nil {
		return err
	}
	// Of two that have read it at the same time, one can delete it, and only that one joins.
	only := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(secret.UID))}
	if err := client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, secret.Name, only); err != nil {
		return refusal(server, err)
	}
	if err := dir.ImportAuthorities(files, time.Now()); err != nil {
		return err
	}
	if ca, err := os.ReadFile(dir.CA()); err != nil || !bytes.Equal(bytes.TrimSpace(ca), bytes.TrimSpace(t.CA)) {
		return errors.Join(fmt.Errorf("the authorities from %s are not those of the token's CA", server), err)
	}
	if err := t.end(ctx, client); err != nil {
		return fmt.Errorf("this machine has the authorities, but cannot end the token: delete the Secret %s of kube-system: %w", api.BootstrapSecretPrefix+t.ID, err)
	}
	return nil
}

// refusal says why a server did not give the authorities.
func refusal(server string, err error) error {
	if apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot join %s: the token has ended or was used before: make another with km pki token, and find out who used this one (%w)", server, err)
	}
	return fmt.Errorf("cannot join %s: %w", server, err)
}

// end deletes the authorities, and then the token, with which all else is deleted that goes with it.
func (t Token) end(ctx context.Context, client kubernetes.Interface) error {
	for _, name := range []string{namePrefix + t.ID, api.BootstrapSecretPrefix + t.ID} {
		if err := client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// Tidy deletes what goes with tokens whose time is over. client is an administrator's.
func Tidy(ctx context.Context, client kubernetes.Interface, now time.Time) error {
	secrets := client.CoreV1().Secrets(metav1.NamespaceSystem)
	list, err := secrets.List(ctx, metav1.ListOptions{LabelSelector: label})
	if err != nil {
		return fmt.Errorf("cannot list the tokens of control planes: %w", err)
	}
	var problems []error
	for _, s := range list.Items {
		until, err := time.Parse(time.RFC3339, string(s.Data["expiration"]))
		if s.Type != corev1.SecretTypeBootstrapToken || (err == nil && now.Before(until)) {
			continue
		}
		problems = append(problems, Token{ID: strings.TrimPrefix(s.Name, api.BootstrapSecretPrefix)}.end(ctx, client))
	}
	return errors.Join(problems...)
}
