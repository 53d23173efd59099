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

const tokenLifetime = time.Hour

// Issue implements run.Tokens. The control plane ends the token earlier, when it has done its work.
func (c *Cluster) Issue(ctx context.Context, node string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	before, err := c.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return "", fmt.Errorf("cannot read node %s: %w", node, err)
	}
	id, secret := randomText(6), randomText(16)
	token := &v1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceSystem, Name: api.BootstrapSecretPrefix + id, Labels: map[string]string{api.LabelNode: node},
			Annotations: map[string]string{api.AnnotationMinionBefore: before.GetAnnotations()[api.AnnotationMinionStarted]},
		},
		Type: v1.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			"token-id":                       []byte(id),
			"token-secret":                   []byte(secret),
			"expiration":                     []byte(c.now().Add(tokenLifetime).UTC().Format(time.RFC3339)),
			"usage-bootstrap-authentication": []byte("true"),
			"auth-extra-groups":              []byte(api.BootstrapGroup),
			"description":                    []byte("k8sm minion of node " + node),
		},
	}
	if _, err := c.client.CoreV1().Secrets(token.Namespace).Create(ctx, token, metav1.CreateOptions{}); err != nil {
		return "", fmt.Errorf("cannot create secret %s/%s: %w", token.Namespace, token.Name, err)
	}
	return id + "." + secret, nil
}

// Revoke implements run.Tokens.
func (c *Cluster) Revoke(ctx context.Context, token string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	id, _, _ := strings.Cut(token, ".")
	err := c.client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, api.BootstrapSecretPrefix+id, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("cannot delete secret %s/%s: %w", metav1.NamespaceSystem, api.BootstrapSecretPrefix+id, err)
	}
	return nil
}

// randomText returns a part of a token: characters of [a-z0-9].
func randomText(length int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz234567" // 32 of them: each byte gives one without a bias
	text := make([]byte, length)
	_, _ = rand.Read(text) // it never fails, see its documentation
	for i := range text {
		text[i] = letters[text[i]%32]
	}
	return string(text)
}
