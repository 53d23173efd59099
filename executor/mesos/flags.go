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

// AgentFlags returns the agent's flags by name (https://mesos.apache.org/documentation/latest/endpoints/slave/flags/). It fails if the
// agent does not disclose them: with --authenticate_http_readonly, it takes the executor's token only if it has
// --authenticate_http_executors too (Slave::initialize in src/slave/slave.cpp).
func AgentFlags(ctx context.Context, cfg Config) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, flagsTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+cfg.AgentEndpoint+"/flags", nil)
	if err != nil {
		return nil, err
	}
	request.Close = true
	if cfg.Token != "" {
		request.Header.Set("Authorization", "Bearer "+cfg.Token)
	}
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
