package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/client-go/rest"
)

const (
	askTimeout = 10 * time.Second // of the API server, for a question of this server
	silence    = 5 * time.Second  // of the API server on a connection, until it is asked for a sign of life, and then until it counts as broken
	maxAnswer  = 1 << 20          // bytes of the answer to one
)

// errStranger is why somebody is not logged in.
var errStranger = errors.New("the API server knows nobody by that token")

// caller is somebody whom the API server knows.
type caller struct {
	// user and groups are what the API server calls the caller.
	user   string
	groups []string
	// expires is when the credential does; zero if it does not say.
	expires time.Time

	config    *rest.Config
	server    *url.URL // the API server
	transport http.RoundTripper
	upgrade   proxy.UpgradeRequestRoundTripper
}

// newCaller returns the caller that the configuration's credentials belong to, as the API server knows them.
func newCaller(ctx context.Context, config *rest.Config) (*caller, error) {
	c, err := connect(config)
	if err != nil {
		return nil, err
	}
	var review authenticationv1.SelfSubjectReview
	err = c.ask(ctx, "/apis/authentication.k8s.io/v1/selfsubjectreviews", &authenticationv1.SelfSubjectReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "SelfSubjectReview"},
	}, &review)
	if err != nil {
		return nil, err
	}
	c.user, c.groups = review.Status.UserInfo.Username, review.Status.UserInfo.Groups
	if c.user == "" || c.user == "system:anonymous" {
		return nil, errStranger
	}
	return c, nil
}

// connect prepares connections to the API server.
func connect(config *rest.Config) (*caller, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = "km-ui"
	server, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("cannot read the API server's address: %w", err)
	}
	secured, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the API server: %w", err)
	}
	identify, err := rest.HTTPWrappersForConfig(config, proxy.MirrorRequest)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the API server: %w", err)
	}
	// Upgrades need connections of HTTP/1.1. The others are watched: an API server that hangs is soon known to be away.
	upgrades := &http.Transport{TLSClientConfig: secured, TLSHandshakeTimeout: askTimeout, DialContext: config.Dial, Proxy: config.Proxy}
	others := upgrades.Clone()
	others.ForceAttemptHTTP2, others.HTTP2 = true, &http.HTTP2Config{SendPingTimeout: silence, PingTimeout: silence}
	shared, err := rest.HTTPWrappersForConfig(config, others)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the API server: %w", err)
	}
	return &caller{config: config, server: server, transport: shared, upgrade: proxy.NewUpgradeRequestRoundTripper(upgrades, identify)}, nil
}

// get gets a path with a query of the API server. The caller of it closes the body.
func (c *caller) get(ctx context.Context, path *url.URL, accept string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.locate(path.Path, path.RawQuery).String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", accept)
	return c.transport.RoundTrip(request)
}

// locate is the URL of a path at the API server.
func (c *caller) locate(path, query string) *url.URL {
	at := *c.server
	at.Path, at.RawPath, at.RawQuery = path, "", query
	return &at
}

// ask posts a question, such as a SelfSubjectAccessReview, and reads the answer.
func (c *caller) ask(ctx context.Context, path string, question, answer runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.locate(path, "").String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("cannot reach the API server: %w", err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	switch {
	case err != nil:
		return fmt.Errorf("cannot read the API server's answer: %w", err)
	case response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden:
		return errStranger
	case response.StatusCode >= 300:
		return fmt.Errorf("the API server answers %s", response.Status)
	}
	return json.Unmarshal(data, answer)
}
