package kubecfg

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/v1beta1"
)

const (
	// maxSource bounds an object that is sent; servers take less.
	maxSource = 4 << 20
	// maxAnswer bounds an answer: a list of about 40,000 pods.
	maxAnswer = 64 << 20
	// requestTimeout bounds a request; a server waits up to 30 s for an operation.
	requestTimeout = time.Minute
	// operationInterval is how often an operation that goes on is looked at.
	operationInterval = time.Second
)

// client sends requests to a server of v1beta1. It may be used concurrently.
type client struct {
	http       *http.Client
	base       *url.URL // of the server
	apiVersion string
	namespace  string
}

// connect makes the client, once.
func (k *kubecfg) connect() error {
	if k.client != nil {
		return nil
	}
	config, err := k.server()
	if err != nil {
		return err
	}
	if !slices.Contains(v1beta1.Versions(), k.apiVersion) {
		return sayf("Can't configure client: API version %q is not valid: use %s", k.apiVersion, strings.Join(v1beta1.Versions(), " or "))
	}
	c := &client{apiVersion: k.apiVersion, namespace: k.namespace}
	if c.base, err = url.Parse(config.Host); err != nil {
		return sayf("Can't configure client: %v", err)
	}
	if c.base.Scheme != "http" && c.base.Scheme != "https" || c.base.Host == "" {
		return sayf("Can't configure client: host must be a URL or a host:port pair: %q", config.Host)
	}
	config.Timeout = requestTimeout
	if c.http, err = rest.HTTPClientFor(config); err != nil {
		return sayf("Can't configure client: %v", err)
	}
	// Credentials are for this server only.
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	k.client = c
	return nil
}

// server says how to reach the server.
func (k *kubecfg) server() (*rest.Config, error) {
	host := k.host
	if host == "" {
		host = os.Getenv("KUBERNETES_MASTER")
	}
	if host == "" {
		config, err := k.Find()
		if err != nil {
			return nil, sayf("Can't configure client: %v; or give -h or KUBERNETES_MASTER", err)
		}
		return config, nil
	}
	config := &rest.Config{Host: host, TLSClientConfig: rest.TLSClientConfig{
		CAFile: k.caFile, CertFile: k.certFile, KeyFile: k.keyFile, Insecure: k.insecure,
	}}
	secure := k.insecure || k.caFile+k.certFile+k.keyFile != ""
	switch {
	case !strings.Contains(host, "://") && secure:
		config.Host = "https://" + host
	case !strings.Contains(host, "://"):
		config.Host = "http://" + host
	}
	if strings.HasPrefix(config.Host, "https://") {
		if err := k.authenticate(config); err != nil {
			return nil, sayf("Error loading auth: %v", err)
		}
	}
	return config, nil
}

// request is one to the server.
type request struct {
	method string
	path   string // below the version
	query  url.Values
	body   []byte
}

// send sends a request by the client, which it makes if there is none.
func (k *kubecfg) send(ctx context.Context, r request) ([]byte, error) {
	if err := k.connect(); err != nil {
		return nil, err
	}
	return k.client.do(ctx, r)
}

// do sends a request and returns the body of the answer: an object. A failure's message is that of the server's Status, if it sent one.
func (c *client) do(ctx context.Context, r request) ([]byte, error) {
	query := url.Values{}
	for key, values := range r.query {
		query[key] = values
	}
	query.Set("namespace", c.namespace)
	answer, err := c.send(ctx, r.method, c.url("api", c.apiVersion, r.path)+"?"+query.Encode(), r.body)
	for err == nil {
		status := readStatus(answer)
		if status.Status != v1beta1.Working || status.Details == nil {
			break
		}
		select {
		case <-time.After(operationInterval):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		answer, err = c.send(ctx, http.MethodGet, c.url("api", c.apiVersion, "operations", status.Details.ID), nil)
	}
	return answer, err
}

func (c *client) url(elements ...string) string { return c.base.JoinPath(elements...).String() }

// send sends one request and returns the body of an answer that is none of a failure.
func (c *client) send(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := readAll(response.Body, maxAnswer)
	if err != nil {
		return nil, err
	}
	status := readStatus(answer)
	switch {
	case status.Status == v1beta1.Failure:
		return nil, errors.New(status.Message)
	case response.StatusCode < http.StatusOK || response.StatusCode > http.StatusPartialContent:
		return nil, fmt.Errorf("request [%s %s] failed (%d) %s: %s", method, url, response.StatusCode, response.Status, beginning(answer))
	}
	return answer, nil
}

// beginning is as much of an answer as a message has room for.
func beginning(answer []byte) string {
	const room = 500
	text := strings.TrimSpace(string(answer))
	if len(text) > room {
		text = strings.ToValidUTF8(text[:room], "") + " …"
	}
	return text
}

// version is the server's. Its path stands above the API's.
func (c *client) version(ctx context.Context) (v version.Info, err error) {
	answer, err := c.send(ctx, http.MethodGet, c.url("version"), nil)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(answer, &v); err != nil {
		return v, fmt.Errorf("got %q: %w", beginning(answer), err)
	}
	return v, nil
}

// readStatus reads an answer as a Status. It is empty if the answer is none.
func readStatus(answer []byte) (s v1beta1.Status) {
	if err := json.Unmarshal(answer, &s); err != nil || s.Kind != "Status" {
		return v1beta1.Status{}
	}
	return s
}

// readAll reads up to a limit, and fails if there is more.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("there is more than %d MiB", limit>>20)
	}
	return data, err
}
