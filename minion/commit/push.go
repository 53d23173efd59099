package commit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/commit"
	"github.com/k8sm/k8sm/minion/registry"
)

// pushTimeout is how long a push may make no progress.
const pushTimeout = 5 * time.Minute

var errStalled = errors.New("the push makes no progress")

// credentials returns what the registry may be shown, the best first: those of the Commit's Secret, or else of the pod's.
func (a *attempt) credentials(ctx context.Context) ([]registry.Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	secret := a.commit.Spec.PushSecret
	if secret == "" {
		known, err := registry.OfPod(ctx, a.Kubernetes, a.pod)
		if err != nil {
			return nil, err
		}
		return known.For(a.commit.Spec.Image), nil
	}
	object, err := a.Kubernetes.CoreV1().Secrets(a.commit.Namespace).Get(ctx, secret, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot read Secret %s with the registry's credentials: %w", secret, err)
	}
	known, err := registry.ParseSecret(object)
	if err != nil {
		return nil, finalError{err}
	}
	found := known.For(a.commit.Spec.Image)
	if len(found) == 0 {
		return nil, final("Secret %s has no credentials for image %s", secret, a.commit.Spec.Image)
	}
	return found, nil
}

// destination is the registry that an image goes to.
type destination struct {
	tag     name.Tag
	options []name.Option
	carrier carrier
	users   []authn.Authenticator // the best first; anonymous without credentials
}

// destination returns how the registry of the Commit's image is reached.
func (a *attempt) destination(ctx context.Context, credentials []registry.Credentials) (*destination, error) {
	d := &destination{options: []name.Option{name.StrictValidation}, users: []authn.Authenticator{authn.Anonymous}}
	tag, err := commit.ParseImage(a.commit.Spec.Image)
	if err != nil {
		return nil, finalError{err}
	}
	plain, err := a.plain(ctx, tag.RegistryStr())
	if err != nil {
		return nil, err
	}
	if plain {
		d.options = append(d.options, name.Insecure)
	}
	if d.tag, err = name.NewTag(a.commit.Spec.Image, d.options...); err == nil {
		d.carrier, err = newCarrier(tag.RegistryStr(), plain)
	}
	if err != nil {
		return nil, finalError{err}
	}
	for i, c := range credentials {
		if i == 0 {
			d.users = nil
		}
		d.users = append(d.users, authn.FromConfig(authn.AuthConfig{
			Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken}))
	}
	return d, nil
}

// push pushes the image as the first user whom the registry accepts.
func (a *attempt) push(ctx context.Context, d *destination, image v1.Image) (digest string, err error) {
	defer d.carrier.CloseIdleConnections()
	for _, who := range d.users {
		if err = write(ctx, d.tag, image, remote.WithAuth(who), remote.WithTransport(d.carrier)); !unauthorized(err) {
			break
		}
	}
	if err != nil {
		return "", pushError(d.tag, err, d.users[0] != authn.Anonymous)
	}
	hash, err := image.Digest()
	return hash.String(), err
}

// find returns the image with this id, if Docker Engine has it from the destination's registry under one of these names: then its layers
// need not be sent there again.
func (d *destination) find(ctx context.Context, id string, digests []string) v1.Image {
	for _, text := range digests {
		ref, err := name.NewDigest(text, d.options...)
		if err != nil || ref.RegistryStr() != d.tag.RegistryStr() {
			continue
		}
		for _, who := range d.users {
			image, err := remote.Image(ref, remote.WithContext(ctx), remote.WithAuth(who), remote.WithTransport(d.carrier))
			if err != nil {
				continue
			}
			if config, err := image.ConfigName(); err == nil && config.String() == id {
				return image
			}
		}
	}
	return nil
}

// write pushes the image, and gives up if there is no progress.
func write(ctx context.Context, tag name.Tag, image v1.Image, options ...remote.Option) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(pushTimeout, func() { cancel(errStalled) })
	defer stalled.Stop()
	progress := make(chan v1.Update, 16)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		for range progress { // remote.Write closes it
			stalled.Reset(pushTimeout)
		}
	}()
	err := remote.Write(tag, image, append(options, remote.WithContext(ctx), remote.WithProgress(progress), remote.WithJobs(2), remote.WithUserAgent("km-minion"))...)
	<-followed
	if context.Cause(ctx) == errStalled {
		return errStalled
	}
	return err
}

func unauthorized(err error) bool {
	var refused *transport.Error
	return errors.As(err, &refused) && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden)
}

// pushError explains why a push failed. What the registry refuses is final, but for a registry that is overloaded.
func pushError(tag name.Tag, err error, credentials bool) error {
	var refused *transport.Error
	switch {
	case unauthorized(err) && !credentials:
		return final("registry %s wants credentials to push %s: give a Secret with --push-secret, or the pod imagePullSecrets: %w", tag.RegistryStr(), tag, err)
	case unauthorized(err):
		return final("registry %s refuses the credentials to push %s: %w", tag.RegistryStr(), tag, err)
	case errors.As(err, &refused) && refused.StatusCode >= 400 && refused.StatusCode < 500 &&
		refused.StatusCode != http.StatusRequestTimeout && refused.StatusCode != http.StatusTooManyRequests:
		return final("cannot push %s: %w", tag, err)
	}
	return fmt.Errorf("cannot push %s: %w", tag, err)
}

// plain reports whether Docker Engine is configured to pull from the registry without TLS, or without verifying it.
func (a *attempt) plain(ctx context.Context, host string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := a.Docker.Info(ctx)
	if err != nil {
		return false, fmt.Errorf("cannot reach Docker Engine: %w", err)
	}
	if info.RegistryConfig == nil {
		return false, nil
	}
	if index := info.RegistryConfig.IndexConfigs[host]; index != nil {
		return !index.Secure, nil
	}
	if bare, _, err := net.SplitHostPort(host); err == nil {
		host = bare
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return false, nil
	}
	for _, network := range info.RegistryConfig.InsecureRegistryCIDRs {
		if one := net.IPNet(*network); one.Contains(address.AsSlice()) {
			return true, nil
		}
	}
	return false, nil
}

// carrier is an http.RoundTripper to one registry. It sends nothing in clear, unless Docker Engine does so for this registry, too:
// the library would try plain HTTP at private addresses.
type carrier struct {
	*http.Transport
	plain bool
}

func newCarrier(host string, plain bool) (carrier, error) {
	t, err := registry.Transport(host)
	if err != nil {
		return carrier{}, err
	}
	if plain {
		t.TLSClientConfig.InsecureSkipVerify = true
	}
	return carrier{t, plain}, nil
}

// RoundTrip implements http.RoundTripper.
func (c carrier) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !c.plain {
		return nil, fmt.Errorf("cannot use %s: without TLS everybody on the way sees the credentials; to allow it, list the registry in insecure-registries of Docker Engine", r.URL.Host)
	}
	return c.Transport.RoundTrip(r)
}
