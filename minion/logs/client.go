package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/k8sm/k8sm/api/logs"
)

// Store is the cluster's log store, as package api/logs says.
type Store interface {
	// Open opens a session.
	Open(ctx context.Context) (logs.Session, error)
	// Send sends a batch.
	Send(ctx context.Context, session string, number int64, batch []byte) (logs.Receipt, error)
	// Durable asks up to which batch all is on disk.
	Durable(ctx context.Context, session string) (logs.Receipt, error)
	// Held asks what the store holds.
	Held(ctx context.Context, session string, questions logs.Questions) (logs.Answers, error)
}

// Client is a Store elsewhere. It may be used concurrently.
type Client struct {
	url  string
	http *http.Client
}

// NewClient returns the store at a URL such as "https://192.0.2.1:6444". The HTTP client has the node's certificate. It needs no
// timeout: requestTimeout is.
func NewClient(url string, client *http.Client) *Client {
	return &Client{url: strings.TrimSuffix(url, "/") + logs.PathSessions, http: client}
}

const (
	// requestTimeout is longer than a store takes that first writes everything to disk.
	requestTimeout = time.Minute
	// maxAnswer bounds an answer, in bytes. It is more than the longest has.
	maxAnswer = logs.MaxQuestions * logs.MaxRanges * 64
	// maxReason bounds what is read of an error.
	maxReason = 1 << 10
)

// Open implements Store.
func (c *Client) Open(ctx context.Context) (session logs.Session, err error) {
	return session, c.call(ctx, http.MethodPost, "", nil, "", &session)
}

// Send implements Store.
func (c *Client) Send(ctx context.Context, session string, number int64, batch []byte) (receipt logs.Receipt, err error) {
	return receipt, c.call(ctx, http.MethodPost, "/"+session+"/batches/"+strconv.FormatInt(number, 10), batch, "application/x-ndjson", &receipt)
}

// Durable implements Store.
func (c *Client) Durable(ctx context.Context, session string) (receipt logs.Receipt, err error) {
	return receipt, c.call(ctx, http.MethodGet, "/"+session, nil, "", &receipt)
}

// Held implements Store.
func (c *Client) Held(ctx context.Context, session string, questions logs.Questions) (answers logs.Answers, err error) {
	body, err := json.Marshal(questions)
	if err != nil {
		return logs.Answers{}, err
	}
	return answers, c.call(ctx, http.MethodPost, "/"+session+"/held", body, "application/json", &answers)
}

// call makes a request and reads the answer.
func (c *Client) call(ctx context.Context, method, path string, body []byte, contentType string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	if contentType == "application/x-ndjson" {
		request.Header.Set("Content-Encoding", "gzip")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("cannot reach the log store: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return refusal(response)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(answer); err != nil {
		return fmt.Errorf("cannot read what the log store answers: %w", err)
	}
	return nil
}

// busyError says that the store takes nothing for now.
type busyError struct {
	error
	after time.Duration // try again after that
}

// refusal returns the error of an answer that is not OK.
func refusal(response *http.Response) error {
	reason, _ := io.ReadAll(io.LimitReader(response.Body, maxReason))
	err := fmt.Errorf("the log store answers %s: %s", response.Status, bytes.TrimSpace(reason))
	switch response.StatusCode {
	case http.StatusConflict, http.StatusNotFound: // another program may listen there, for a moment
		return errors.Join(errSessionEnded, err)
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		return errors.Join(errRejected, err)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		return &busyError{err, time.Duration(min(max(seconds, 0), maxRetryAfter)) * time.Second}
	}
	return err
}

// maxRetryAfter bounds what the store may ask for, in seconds.
const maxRetryAfter = 60
