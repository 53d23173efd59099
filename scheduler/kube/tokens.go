package kube

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

const (
	tokenLifetime = time.Hour
	// secretType and tokenPrefix are the API server's for bootstrap tokens
	// (https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/#bootstrap-token-secret-format).
	secretType  v1.SecretType = "bootstrap.kubernetes.io/token"
	tokenPrefix string        = "bootstrap-token-"
)

// Arm implements run.Tokens.
func (c *Cluster) Arm(ctx context.Context, node, token string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if token == "" {
		token = newToken()
	}
	id, secret, ok := strings.Cut(token, ".")
	if !ok {
		return "", fmt.Errorf("the bootstrap token of node %s is not ID.SECRET", node)
	}
	want := &v1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceSystem, Name: tokenPrefix + id, Labels: map[string]string{api.LabelNode: node},
		},
		Type: secretType,
		Data: map[string][]byte{
			"token-id":                       []byte(id),
			"token-secret":                   []byte(secret),
			"expiration":                     []byte(c.now().Add(tokenLifetime).UTC().Format(time.RFC3339)),
			"usage-bootstrap-authentication": []byte("true"),
			"auth-extra-groups":              []byte(api.BootstrapGroup),
			"description":                    []byte("k8sm minion of node " + node),
		},
	}
	secrets := c.client.CoreV1().Secrets(metav1.NamespaceSystem)
	_, err := secrets.Update(ctx, want, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = secrets.Create(ctx, want, metav1.CreateOptions{})
	}
	if err != nil {
		return "", fmt.Errorf("cannot write secret %s/%s: %w", want.Namespace, want.Name, err)
	}
	return token, nil
}

// newToken returns a token in the form of Kubernetes: 6 and 16 characters of [a-z0-9].
func newToken() string { return randomText(6) + "." + randomText(16) }

func randomText(length int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz234567" // 32 of them: each byte gives one without a bias
	text := make([]byte, length)
	_, _ = rand.Read(text) // it never fails, see its documentation
	for i := range text {
		text[i] = letters[text[i]%32]
	}
	return string(text)
}
