package mesos

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// flagsTimeout bounds the request for the agent's flags, because the node's start waits for it.
const flagsTimeout = 3 * time.Second

// AgentFlags returns the agent's flags by name. It fails if the agent requires authentication for them, because an executor has no
// credentials for that (https://mesos.apache.org/documentation/latest/endpoints/slave/flags/).
func AgentFlags(ctx context.Context, cfg Config) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, flagsTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+cfg.AgentEndpoint+"/flags", nil)
	if err != nil {
		return nil, err
	}
	request.Close = true
	response, err := (&http.Client{Transport: newTransport(newDialer(cfg.SSL))}).Do(request)
	if err != nil {
		return nil, fmt.Errorf("cannot read the agent's flags: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("cannot read the agent's flags: %s", response.Status)
	}
	var answer struct {
		Flags map[string]string `json:"flags"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("cannot read the agent's flags: %w", err)
	}
	return answer.Flags, nil
}
