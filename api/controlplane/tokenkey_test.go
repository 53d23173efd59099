package controlplane

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api/statedir"
)

// rotation connects anew, as each step of km certs rotate-sa-key does.
func rotation(t *testing.T, dir statedir.Dir) *TokenKeyRotation {
	t.Helper()
	r, err := NewTokenKeyRotation(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// refuses checks that a step is refused for the reason.
func refuses(t *testing.T, err error, why string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("got %v, want %q", err, why)
	}
}

// serviceAccountToken requests a token, when there is the service account.
func serviceAccountToken(t *testing.T, admin kubernetes.Interface) (token string) {
	t.Helper()
	eventually(t, func(ctx context.Context) string {
		got, err := admin.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		if err == nil {
			token = got.Status.Token
		}
		return problemOf(err)
	})
	return token
}

// knows reports whether the API server knows whose the token is.
func knows(t *testing.T, admin kubernetes.Interface, token string) bool {
	t.Helper()
	review, err := admin.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.Authenticated
}

func TestKeyOfTokensIsReplacedAndNoTokenRefusedTooEarly(t *testing.T) {
	dir := statedir.Dir(t.TempDir())
	running := startChild(t, dir)
	admin := clientOf(t, adminConfig(t, dir))
	again := func() {
		t.Helper()
		running.stop(t)
		running = startChild(t, dir)
		admin = clientOf(t, adminConfig(t, dir))
	}
	old := serviceAccountToken(t, admin)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "forever", Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}}, Type: corev1.SecretTypeServiceAccountToken,
	}
	if _, err := admin.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) string {
		s, err := admin.CoreV1().Secrets("default").Get(ctx, "forever", metav1.GetOptions{})
		if err == nil && len(s.Data[corev1.ServiceAccountTokenKey]) == 0 {
			err = fmt.Errorf("it has no token yet")
		}
		return problemOf(err)
	})
	refuses(t, rotation(t, dir).Issue(t.Context()), "begin first")
	refuses(t, rotation(t, dir).Finish(t.Context(), time.Now(), 0), "no former key")

	for range 2 { // the second call finds nothing to do
		if err := rotation(t, dir).Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	refuses(t, rotation(t, dir).Issue(t.Context()), "does not trust it yet")
	again()
	if !knows(t, admin, old) {
		t.Error("after begin: the token is refused")
	}
	if err := rotation(t, dir).Issue(t.Context()); err != nil {
		t.Fatal(err)
	}
	refuses(t, rotation(t, dir).Begin(t.Context()), "still trusted")
	refuses(t, rotation(t, dir).Finish(t.Context(), time.Now(), time.Hour), "cannot finish for 1h0m0s more")
	refuses(t, rotation(t, dir).Finish(t.Context(), time.Now(), 0), "signs with the former key still")
	again()
	fresh := serviceAccountToken(t, admin)
	if keyOf(fresh) == keyOf(old) || !knows(t, admin, fresh) || !knows(t, admin, old) {
		t.Errorf("after issue: keys %s and %s; the new token is accepted: %t, the former: %t", keyOf(fresh), keyOf(old), knows(t, admin, fresh), knows(t, admin, old))
	}
	refuses(t, rotation(t, dir).Finish(t.Context(), time.Now(), 0), "default/forever")
	if err := admin.CoreV1().Secrets("default").Delete(t.Context(), "forever", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := rotation(t, dir).Finish(t.Context(), time.Now(), 0); err != nil {
		t.Fatal(err)
	}
	again()
	if !knows(t, admin, fresh) || knows(t, admin, old) {
		t.Errorf("after finish: the new token is accepted: %t, the former: %t", knows(t, admin, fresh), knows(t, admin, old))
	}
	running.stop(t)
}
