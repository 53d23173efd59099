package status

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/util/cert"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/podtrace"
	"github.com/k8sm/k8sm/api/podtrace/tracehttp"
	"github.com/k8sm/k8sm/scheduler"
)

const (
	statePath   = "/mesos/state"
	offersPath  = "/debug/offers"
	historyPath = "/debug/offers/ended"
	tasksPath   = "/debug/tasks"
	queuePath   = "/debug/queue"
	reasonsPath = "/debug/queue/reasons"
	nodesPath   = "/debug/nodes"
)

// Identity is the client's certificate and key, and the CA of the scheduler's certificate, all in PEM.
type Identity struct {
	CA, Cert, Key []byte
	// ServerName is the name in the scheduler's certificate. The default is the host of the address.
	ServerName string
}

// Client reads the status of one scheduler. Its methods may be called concurrently.
type Client struct {
	address string
	http    http.Client
}

// NewClient returns a client of the scheduler at an address, "host:port". It does not connect yet.
func NewClient(address string, who Identity) (*Client, error) {
	pair, err := tls.X509KeyPair(who.Cert, who.Key)
	if err != nil {
		return nil, fmt.Errorf("cannot use the client certificate: %w", err)
	}
	authority, err := cert.NewPoolFromBytes(who.CA)
	if err != nil {
		return nil, fmt.Errorf("cannot use the cluster's CA: %w", err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, RootCAs: authority, ServerName: who.ServerName,
	}}
	return &Client{address: address, http: http.Client{Transport: transport, Timeout: 30 * time.Second}}, nil
}

// Offers returns the offers that the scheduler holds.
func (c *Client) Offers(ctx context.Context) ([]scheduler.LiveOffer, error) {
	return get[scheduler.LiveOffer](ctx, c, offersPath)
}

// Tasks returns the scheduler's tasks.
func (c *Client) Tasks(ctx context.Context) ([]scheduler.LiveTask, error) {
	return get[scheduler.LiveTask](ctx, c, tasksPath)
}

// Queue returns the waiting pods in order of arrival.
func (c *Client) Queue(ctx context.Context) ([]scheduler.WaitingPod, error) {
	return get[scheduler.WaitingPod](ctx, c, queuePath)
}

// Nodes returns the nodes of Mesos agents.
func (c *Client) Nodes(ctx context.Context) ([]scheduler.LiveNode, error) {
	return get[scheduler.LiveNode](ctx, c, nodesPath)
}

// Traces returns the spans of the pods with a name, the latest first, as far as the scheduler still has them.
func (c *Client) Traces(ctx context.Context, pod api.PodKey) ([]podtrace.Trace, error) {
	return get[podtrace.Trace](ctx, c, tracehttp.Path(pod))
}

// Paths are all that a scheduler tells of itself, without its profiles.
func Paths() []string {
	return []string{"/readyz", "/metrics", "/metrics/mesos", statePath, offersPath, historyPath, tasksPath, queuePath, reasonsPath, nodesPath}
}

// Copy copies what the scheduler tells at one of the Paths to w.
func (c *Client) Copy(ctx context.Context, path string, w io.Writer) error {
	body, err := c.open(ctx, path)
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(w, body)
	return err
}

func get[T any](ctx context.Context, c *Client, path string) ([]T, error) {
	body, err := c.open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var list []T
	if err := json.NewDecoder(body).Decode(&list); err != nil {
		return nil, fmt.Errorf("cannot read the answer of the scheduler at %s: %w", c.address, err)
	}
	return list, nil
}

// open gets a path. The caller closes the body.
func (c *Client) open(ctx context.Context, path string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.address+path, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the scheduler at %s: %w", c.address, err)
	}
	response, err := c.http.Do(request)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("no scheduler answers at %s: start km up or km scheduler, or give its address by --status-address", c.address)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot ask the scheduler at %s: %w", c.address, err)
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	defer response.Body.Close()
	said, err := io.ReadAll(io.LimitReader(response.Body, 1000))
	if err != nil {
		return nil, fmt.Errorf("cannot read the answer of the scheduler at %s: %w", c.address, err)
	}
	return nil, fmt.Errorf("the scheduler at %s answers %s: %s", c.address, response.Status, strings.TrimSpace(string(said)))
}
