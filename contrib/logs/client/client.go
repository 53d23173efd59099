// Package client reads logs from a cluster's log store, by its API server. Start reading at Client.Lines.
package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/logs/read"
)

// Place is whose logs are read.
type Place struct {
	// Resource is "pods", api.LogsComponents or api.LogsFrameworks.
	Resource string
	// Namespace is that of the pods, "" for all. Pod is the only pod, "" for all.
	Namespace, Pod string
}

// path is where a place's logs are.
func (p Place) path() string {
	path := "/apis/" + api.LogsGroup + "/" + api.LogsVersion
	if p.Namespace != "" {
		path += "/namespaces/" + url.PathEscape(p.Namespace)
	}
	pod := "*"
	if p.Pod != "" {
		pod = url.PathEscape(p.Pod)
	}
	return path + "/" + p.Resource + "/" + pod + "/log"
}

// Client reads logs. It may be used concurrently.
type Client struct {
	http *http.Client
	url  string
}

// New returns a client of the API server.
func New(config *rest.Config) (*Client, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("cannot create a client for the API server: %w", err)
	}
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("cannot find the API server: %w", err)
	}
	return &Client{http: client, url: strings.TrimSuffix(base.String(), "/")}, nil
}

// Lines calls each with the lines of a place that the parameters select; package read has their names. begin is called before, with the
// number of containers or components whose lines there are, and may be nil. With read.ParamFollow, it goes on until ctx ends.
func (c *Client) Lines(ctx context.Context, p Place, parameters url.Values, begin func(writers int), each func(read.Line) error) error {
	response, err := c.get(ctx, p, "", parameters)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if begin != nil {
		writers, _ := strconv.Atoi(response.Header.Get(read.HeaderWriters)) // 0 if it is not there
		begin(writers)
	}
	decoder := json.NewDecoder(bufio.NewReaderSize(response.Body, 64<<10))
	for {
		var l struct {
			read.Line
			read.Failure
		}
		switch err := decoder.Decode(&l); {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("the log store's answer broke off: %w", err)
		case l.Error != "":
			return fmt.Errorf("the log store could not read on: %s", l.Error)
		}
		if err := each(l.Line); err != nil {
			return err
		}
	}
}

// Query runs a LogsQL query (https://docs.victoriametrics.com/victorialogs/logsql/) over a place's logs and returns the answer: a JSON object
// in each line. The caller closes it. With follow, it goes on until ctx ends.
func (c *Client) Query(ctx context.Context, p Place, parameters url.Values, follow bool) (io.ReadCloser, error) {
	path := "/select/logsql/query"
	if follow {
		path = "/select/logsql/tail"
	}
	response, err := c.get(ctx, p, path, parameters)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// maxReason bounds what is read of an error.
const maxReason = 4 << 10

func (c *Client) get(ctx context.Context, p Place, path string, parameters url.Values) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+p.path()+path+"?"+parameters.Encode(), nil)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the API server: %w", err)
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxReason))
	reason := strings.TrimSpace(string(text))
	var status struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(text, &status) == nil && status.Message != "" {
		reason = status.Message
	}
	return nil, explain(p, response.StatusCode, reason)
}

// ErrNoStore says that the cluster has no log store.
var ErrNoStore = errors.New("this cluster has no log store")

// explain returns the error of an answer.
func explain(p Place, code int, reason string) error {
	switch {
	case code == http.StatusForbidden && p.Resource == "pods":
		where := "all namespaces"
		if p.Namespace != "" {
			where = "namespace " + p.Namespace
		}
		return fmt.Errorf("you may not read the logs of %s: that needs the right to get pods/log there, as kubectl logs does (%s)", where, reason)
	case code == http.StatusForbidden:
		return fmt.Errorf("only administrators read these logs (%s)", reason)
	case code == http.StatusUnauthorized:
		return fmt.Errorf("the API server does not know you: %s", reason)
	case code == http.StatusNotFound:
		return fmt.Errorf("%w: start km apiserver or km up without --logs=false (%s)", ErrNoStore, reason)
	case code == http.StatusServiceUnavailable || code == http.StatusBadGateway:
		return fmt.Errorf("the log store does not answer just now: %s", reason)
	}
	return errors.New(reason)
}
