package health

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

const (
	// askTimeout bounds the API server's answer, and remembered is how long it counts: strangers may ask often.
	askTimeout, remembered = 5 * time.Second, time.Second
)

// APIServer returns a check of whether the API server of a configuration answers, and is not down. It needs no rights.
func APIServer(config *rest.Config) (Check, error) {
	config = rest.AnonymousClientConfig(config)
	config.Timeout = askTimeout
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the API server: %w", err)
	}
	server, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("cannot read the API server's address: %w", err)
	}
	return Seldom(func() error {
		response, err := client.Get(server.JoinPath("readyz").String())
		if err != nil {
			return fmt.Errorf("cannot reach the API server: %w", err)
		}
		defer response.Body.Close()
		if response.StatusCode >= http.StatusInternalServerError {
			return errors.New("the API server is not ready: " + response.Status)
		}
		return nil
	}), nil
}

// Seldom returns a check that asks at most once in a while: those who ask it may be many.
func Seldom(ask func() error) Check {
	var mu sync.Mutex // guards the rest, and lets one ask at a time
	var asked time.Time
	var answer error
	return func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(asked) > remembered {
			answer = ask()
			asked = time.Now()
		}
		return answer
	}
}
