package registry

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
)

// users parses a config.json and returns the user names for an image, in order.
func users(t *testing.T, config, image string) string {
	t.Helper()
	c, err := Parse([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, one := range c.For(image) {
		names = append(names, one.Username)
	}
	return strings.Join(names, " ")
}

func TestCredentialsForAnImageAreThoseOfItsRegistryAndPath(t *testing.T) {
	const config = `{"auths": {
		"https://harbor.example": {"username": "all", "password": "p"},
		"harbor.example/team": {"username": "team", "password": "p"},
		"http://harbor.example:8443/v2/": {"username": "port", "password": "p"},
		"*.harbor.example": {"username": "below", "password": "p"},
		"a.harbor.example": {"username": "a", "password": "p"},
		"https://index.docker.io/v1/": {"username": "hub", "password": "p"},
		"[": {"username": "broken", "password": "p"},
		"none.example": {}
	}, "credsStore": "desktop", "credHelpers": {"harbor.example": "gcloud"}}`
	for image, want := range map[string]string{
		"harbor.example/x:1":                  "all",
		"harbor.example/team/x@sha256:" + sum: "team all",
		"harbor.example/other/team/x":         "all",
		"harbor.example:8443/team/x":          "port",
		"harbor.example:8444/team/x":          "",
		"a.harbor.example/x":                  "a below",
		"b.harbor.example/x":                  "below",
		"a.b.harbor.example/x":                "",
		"busybox":                             "hub",
		"team/x:1":                            "hub",
		"docker.io/library/busybox":           "hub",
		"index.docker.io/library/busybox":     "hub",
		"none.example/x":                      "",
		"harbor.example/Upper":                "",
		"registry.k8s.io/pause":               "",
		"127.0.0.1:5000/harbor.example/x":     "",
	} {
		if got := users(t, config, image); got != want {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
}

const sum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestAuthWinsAndMayHaveNoPadding(t *testing.T) {
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding} {
		auth := encoding.EncodeToString([]byte("robot$team+puller:se:cret"))
		c, err := Parse([]byte(`{"auths": {"h.example": {"username": "x", "password": "y", "auth": "` + auth + `"}}}`))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]Credentials{{Username: "robot$team+puller", Password: "se:cret"}}, c.For("h.example/x")); diff != "" {
			t.Error(diff)
		}
	}
}

func TestTokensAreCredentials(t *testing.T) {
	c, err := Parse([]byte(`{"auths": {"h.example": {"identitytoken": "refresh"}, "g.example": {"registrytoken": "bearer"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.For("h.example/x"); len(got) != 1 || got[0].IdentityToken != "refresh" {
		t.Errorf("%+v", got)
	}
	if got := c.For("g.example/x"); len(got) != 1 || got[0].RegistryToken != "bearer" {
		t.Errorf("%+v", got)
	}
}

func pullSecret(name string, kind corev1.SecretType, key, value string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: name}, Type: kind, Data: map[string][]byte{key: []byte(value)}}
}

func TestSecretThatHasNoCredentialsIsNamedInTheError(t *testing.T) {
	for _, secret := range []*corev1.Secret{
		pullSecret("s", corev1.SecretTypeOpaque, corev1.DockerConfigJsonKey, `{}`),
		pullSecret("s", corev1.SecretTypeDockerConfigJson, "other", `{}`),
		pullSecret("s", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{`),
		pullSecret("s", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths": {"h": {"auth": "hunter2"}}}`),
		pullSecret("s", corev1.SecretTypeDockercfg, corev1.DockerConfigKey, `{"h": 1}`),
	} {
		_, err := ParseSecret(secret)
		if err == nil || !strings.Contains(err.Error(), "cannot use secret team/s: ") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v: %v", secret.Data, err)
		}
	}
}

func TestCredentialsOfAPodAreThoseOfItsSecrets(t *testing.T) {
	objects := []runtime.Object{
		pullSecret("one", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths": {"h.example": {"username": "one", "password": "p"}}}`),
		pullSecret("two", corev1.SecretTypeDockercfg, corev1.DockerConfigKey, `{"h.example": {"username": "two", "password": "p"}}`),
		pullSecret("bad", corev1.SecretTypeOpaque, "x", "y"),
	}
	pod := func(secrets ...string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "web"}}
		for _, name := range secrets {
			p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
		}
		return p
	}
	client := fake.NewClientset(objects...)
	c, err := OfPod(t.Context(), client, pod("two", "gone", "one"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Credentials{{Username: "two", Password: "p"}, {Username: "one", Password: "p"}}, c.For("h.example/x")); diff != "" {
		t.Error(diff)
	}
	if _, err := OfPod(t.Context(), client, pod("one", "bad")); err == nil || !strings.Contains(err.Error(), "team/bad") {
		t.Errorf("a secret of another type: %v", err)
	}
}
