// Package mesos adapts the Mesos v1 executor API (https://mesos.apache.org/documentation/latest/executor-http-api/) to the events
// and actions of package executor: it subscribes, decodes, translates and encodes. Package executor decides about tasks. Start
// reading at Agent.Run.
//
// It must never import client-go: it knows nothing of Kubernetes.
package mesos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/mesos/mesos-go/api/v1/lib/encoding"
	mesosexec "github.com/mesos/mesos-go/api/v1/lib/executor"
	"github.com/mesos/mesos-go/api/v1/lib/executor/calls"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli/httpexec"

	"github.com/k8sm/k8sm/api/backoff"
	"github.com/k8sm/k8sm/api/mesoshttp"
	"github.com/k8sm/k8sm/executor"
)

const (
	// callTimeout bounds each call to the agent, which runs on the same machine.
	callTimeout = 10 * time.Second
	// firstBackoff is the pause before the second attempt to subscribe; see pauses.
	firstBackoff = 50 * time.Millisecond
)

// Agent is the connection to the Mesos agent that started this process. Any goroutine may call Subscribe, Update and Disconnect.
type Agent struct {
	cfg       Config
	dialer    *dialer
	calls     calls.Sender // short calls over kept-alive connections
	streams   calls.Sender // SUBSCRIBE: its connection is the stream of events
	subscribe chan executor.Subscribe

	mu     sync.Mutex // guards cancel
	cancel context.CancelFunc
}

// New returns an Agent that is not connected yet.
func New(cfg Config) *Agent {
	dialer := newDialer(cfg.SSL)
	options := []httpcli.Opt{
		httpcli.Endpoint("http://" + cfg.AgentEndpoint + "/api/v1/executor"),
		httpcli.Codec(mesoshttp.Codec()),
		httpcli.Do(mesoshttp.Bounded((&http.Client{Transport: newTransport(dialer)}).Do)),
	}
	if cfg.Token != "" {
		options = append(options, httpcli.DefaultHeader("Authorization", "Bearer "+cfg.Token))
	}
	client := httpcli.New(options...)
	who := mesosexec.CallOptions{calls.Framework(cfg.FrameworkID), calls.Executor(cfg.ExecutorID)}
	return &Agent{
		cfg:       cfg,
		dialer:    dialer,
		calls:     calls.SenderWith(httpexec.NewSender(client.Send), who...),
		streams:   calls.SenderWith(httpexec.NewSender(client.Send, httpcli.Close(true)), who...),
		subscribe: make(chan executor.Subscribe, 1),
	}
}

// newTransport returns the transport of the calls. The dialer decides about TLS. It ignores HTTP proxies of the environment: the
// agent is on this machine.
func newTransport(d *dialer) *http.Transport {
	return &http.Transport{DialContext: d.dial, ResponseHeaderTimeout: callTimeout}
}

// Subscribe implements executor.Agent. Only one subscription runs at a time: the executor asks for the next one after Disconnected.
func (a *Agent) Subscribe(s executor.Subscribe) { a.subscribe <- s }

// Disconnect implements executor.Agent.
func (a *Agent) Disconnect() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cancel != nil {
		a.cancel()
	}
}

// Update implements executor.Agent.
func (a *Agent) Update(ctx context.Context, u executor.Update) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	response, err := a.calls.Send(ctx, calls.NonStreaming(calls.Update(a.status(u))))
	if response != nil {
		defer response.Close()
	}
	if err != nil {
		return fmt.Errorf("cannot send %s of task %s to the agent: %w", u.State, u.Task, err)
	}
	return nil
}

// Run subscribes on request and posts the events of the subscription, until ctx ends. After a failed attempt it waits, at most as
// long as the agent allows.
func (a *Agent) Run(ctx context.Context, post func(executor.Event)) error {
	pause, pauses := time.Duration(0), a.pauses()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s := <-a.subscribe:
			if err := sleep(ctx, pause); err != nil {
				return err
			}
			connected, err := a.follow(ctx, s, post)
			if connected {
				pauses = a.pauses()
			}
			pause = pauses.Step()
			post(executor.Disconnected{Reason: err.Error()})
		}
	}
}

// pauses lie between attempts to subscribe. A restarted agent waits for its executors for its limit and then kills those that are
// missing; longer pauses could miss it.
func (a *Agent) pauses() backoff.Pauses {
	return backoff.Between(firstBackoff, a.cfg.SubscriptionBackoffMax/2)
}

func sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// follow makes one subscription and posts its events until it ends; the error says why. connected is true if the agent accepted it.
func (a *Agent) follow(ctx context.Context, s executor.Subscribe, post func(executor.Event)) (connected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.mu.Lock()
	a.cancel = cancel
	a.mu.Unlock()

	call, err := a.subscription(s)
	if err != nil {
		return false, err
	}
	stream, err := a.streams.Send(ctx, calls.NonStreaming(call))
	if stream != nil {
		defer stream.Close()
	}
	if err != nil {
		a.dialer.forget()
		return false, fmt.Errorf("cannot subscribe to the agent at %s: %w", a.cfg.AgentEndpoint, err)
	}
	return true, decode(stream, post)
}

// decode posts events until the stream ends. It never returns nil.
func decode(stream encoding.Decoder, post func(executor.Event)) error {
	for {
		var event mesosexec.Event
		if err := stream.Decode(&event); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("the agent closed the connection")
			}
			return fmt.Errorf("cannot read the agent's events: %w", err)
		}
		if event.Type == mesosexec.Event_ERROR {
			return fmt.Errorf("the agent says: %s", event.GetError().GetMessage())
		}
		for _, e := range translate(&event) {
			post(e)
		}
	}
}
