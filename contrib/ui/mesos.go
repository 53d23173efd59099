package ui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/statedir"
)

// schedulerTimeout bounds one answer of the scheduler.
const schedulerTimeout = 15 * time.Second

const mesosPrefix = "/api/mesos/"

// statuses are the paths of the scheduler's status server by what they are called below /api/mesos.
var statuses = map[string]string{
	"state": "/mesos/state", "offers": "/debug/offers", "offers/ended": "/debug/offers/ended", "tasks": "/debug/tasks",
	"queue": "/debug/queue", "queue/reasons": "/debug/queue/reasons", "nodes": "/debug/nodes",
}

var errNoScheduler = &statusError{code: http.StatusNotFound, message: "this server knows no scheduler: it shows Kubernetes only"}

// leaderLife is for how long the leading scheduler is taken to lead.
const leaderLife = 10 * time.Second

// leader knows where the leading scheduler serves its status. It asks once in a while.
type leader struct {
	ask func(ctx context.Context) (address string, err error) // nil if there is none

	mu      sync.Mutex // guards the rest, and makes callers wait for one answer
	address string
	until   time.Time
}

func (l *leader) find(ctx context.Context) (address string, err error) {
	if l.ask == nil {
		return "", errNoScheduler
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(l.until) {
		return l.address, nil
	}
	if l.address, err = l.ask(ctx); err == nil {
		l.until = time.Now().Add(leaderLife)
	}
	return l.address, err
}

// askScheduler gets a path of /api/mesos from the leading scheduler with the caller's credentials: the scheduler decides what the caller
// may see. The caller of it closes the body.
func (s *Server) askScheduler(ctx context.Context, who *caller, path *url.URL) (*http.Response, error) {
	name := strings.TrimPrefix(path.Path, mesosPrefix)
	at, known := statuses[name]
	if !known {
		return nil, &statusError{code: http.StatusNotFound, message: fmt.Sprintf("the scheduler has no %q", name)}
	}
	address, err := s.leader.find(ctx)
	if err != nil {
		return nil, err
	}
	config := rest.CopyConfig(who.config)
	config.ServerName, config.Dial, config.Proxy = statedir.SchedulerServerName, nil, nil // these lead to API servers
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the scheduler: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Scheme: "https", Host: address, Path: at, RawQuery: path.RawQuery}).String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("no scheduler answers at %s: %w", address, err)
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(response.Body, 1000)) // a part says enough
	return nil, &statusError{code: response.StatusCode, message: strings.TrimSpace(string(said))}
}

// serveMesos serves what the scheduler knows.
func (s *Server) serveMesos(w http.ResponseWriter, r *http.Request, of *session) {
	ctx, cancel := context.WithTimeout(r.Context(), schedulerTimeout)
	defer cancel()
	response, err := s.askScheduler(ctx, of.who, r.URL)
	var status *statusError
	switch {
	case errors.As(err, &status) && status.code == http.StatusUnauthorized: // the caller is logged in here all the same
		refuse(w, http.StatusForbidden, err)
		return
	case errors.As(err, &status):
		refuse(w, status.code, err)
		return
	case err != nil:
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	defer response.Body.Close()
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.Copy(w, response.Body) // a browser that has gone wants no answer
}
