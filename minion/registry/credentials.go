package registry

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Credentials are what a registry takes: a name and a password, or a token.
type Credentials struct{ Username, Password, IdentityToken, RegistryToken string }

// Config has credentials for registries. The zero Config has none. It is immutable.
type Config struct{ entries []entry }

// entry has the credentials for images of a registry: of the whole, or those whose path begins with path. The labels of host may have
// the wildcards of path.Match.
type entry struct {
	host, path string
	Credentials
}

// auth is an entry of docker's config.json.
type auth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"` // base64 of username:password, which wins
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// Parse parses docker's config.json as kubelets do: it takes only "auths", and neither credential stores nor helpers
// (https://kubernetes.io/docs/concepts/containers/images/#config-json).
func Parse(data []byte) (Config, error) {
	var file struct {
		Auths map[string]auth `json:"auths"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return Config{}, fmt.Errorf("cannot read the credentials for registries: %w", err)
	}
	return newConfig(file.Auths)
}

// ParseSecret parses a secret of type kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg.
func ParseSecret(secret *corev1.Secret) (c Config, err error) {
	if data, ok := secret.Data[corev1.DockerConfigJsonKey]; ok && secret.Type == corev1.SecretTypeDockerConfigJson {
		c, err = Parse(data)
	} else if data, ok := secret.Data[corev1.DockerConfigKey]; ok && secret.Type == corev1.SecretTypeDockercfg {
		var auths map[string]auth
		if err = json.Unmarshal(data, &auths); err == nil {
			c, err = newConfig(auths)
		}
	} else {
		err = fmt.Errorf("its type is %q: make it with kubectl create secret docker-registry", secret.Type)
	}
	if err != nil {
		return Config{}, fmt.Errorf("cannot use secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	return c, nil
}

// OfPod returns the credentials in a pod's imagePullSecrets. The API server has added those of its ServiceAccount, unless the pod had
// its own. A secret that does not exist counts as one without credentials, as for kubelets.
func OfPod(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) (all Config, err error) {
	for _, named := range pod.Spec.ImagePullSecrets {
		secret, err := client.CoreV1().Secrets(pod.Namespace).Get(ctx, named.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return Config{}, fmt.Errorf("cannot read secret %s/%s: %w", pod.Namespace, named.Name, err)
		}
		one, err := ParseSecret(secret)
		if err != nil {
			return Config{}, err
		}
		all.entries = append(all.entries, one.entries...)
	}
	return all, nil
}

func newConfig(auths map[string]auth) (c Config, err error) {
	for _, name := range slices.Sorted(maps.Keys(auths)) {
		a, e := auths[name], newEntry(name)
		e.Credentials = Credentials{a.Username, a.Password, a.IdentityToken, a.RegistryToken}
		if a.Auth != "" {
			if e.Username, e.Password, err = DecodeAuth(a.Auth); err != nil {
				return Config{}, fmt.Errorf("cannot use the credentials for %s: %w", name, err)
			}
		}
		if e.Credentials != (Credentials{}) {
			c.entries = append(c.entries, e)
		}
	}
	return c, nil
}

// newEntry parses the name of an entry: "https://HOST/v1/", "HOST:PORT" or "HOST/PATH".
func newEntry(name string) entry {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "https://"), "http://")
	host, path, _ := strings.Cut(name, "/")
	if version, rest, _ := strings.Cut(path, "/"); version == "v1" || version == "v2" {
		path = rest
	}
	return entry{host: host, path: path}
}

// DecodeAuth splits base64 of "username:password".
func DecodeAuth(auth string) (username, password string, err error) {
	plain, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(auth), "=")) // the padding may be missing
	if err != nil {
		return "", "", err
	}
	username, password, ok := strings.Cut(string(plain), ":")
	if !ok {
		return "", "", errors.New("auth is not user:password in base64")
	}
	return username, strings.TrimRight(password, "\x00"), nil
}

// For returns the credentials for an image, those with the most precise names first. None are no error: the image may be public.
func (c Config) For(image string) (found []Credentials) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil
	}
	var matching []entry
	for _, e := range c.entries {
		if e.matches(reference.Domain(named), reference.Path(named)) {
			matching = append(matching, e)
		}
	}
	slices.SortStableFunc(matching, func(a, b entry) int { // as kubelets: a longer path first, and a wildcard last
		return cmp.Or(strings.Compare(b.host, a.host), strings.Compare(b.path, a.path))
	})
	for _, e := range matching {
		found = append(found, e.Credentials)
	}
	return found
}

// dockerHub has the names of Docker Hub in names of images and in docker's config.json.
var dockerHub = []string{"docker.io", "index.docker.io"}

func (e entry) matches(host, folder string) bool {
	if host == dockerHub[0] && slices.Contains(dockerHub, e.host) {
		host = e.host
	}
	return matchesHost(e.host, host) && strings.HasPrefix(folder, e.path)
}

// matchesHost compares label by label, so that a wildcard stands for no dot.
func matchesHost(pattern, host string) bool {
	wantHost, wantPort := splitPort(pattern)
	hasHost, hasPort := splitPort(host)
	want, has := strings.Split(wantHost, "."), strings.Split(hasHost, ".")
	if wantPort != hasPort || len(want) != len(has) {
		return false
	}
	for i := range want {
		if matched, err := path.Match(want[i], has[i]); err != nil || !matched {
			return false
		}
	}
	return true
}

func splitPort(address string) (host, port string) {
	if host, port, err := net.SplitHostPort(address); err == nil {
		return host, port
	}
	return address, ""
}
