package mesos

import (
	"fmt"
	"os"

	"github.com/mesos/mesos-go/api/v1/lib/executor/config"
)

// tokenVariable is the environment variable with the executor's token.
const tokenVariable = "MESOS_EXECUTOR_AUTHENTICATION_TOKEN"

// Config is the environment that an agent sets for its executors
// (https://mesos.apache.org/documentation/latest/executor-http-api/#executor-environment-variables).
type Config struct {
	config.Config
	// Token authenticates the executor to an agent that requires it; empty for none. It is a secret.
	Token string
	SSL   SSL
}

// ConfigFromEnv reads the environment that the agent set for this process.
func ConfigFromEnv() (Config, error) {
	if os.Getenv("MESOS_AGENT_ENDPOINT") == "" {
		return Config{}, fmt.Errorf("MESOS_AGENT_ENDPOINT is not set: this program is started by a Mesos agent, not by hand")
	}
	cfg, err := config.FromEnv()
	if err != nil {
		return Config{}, fmt.Errorf("cannot read the executor's environment: %w", err)
	}
	ssl, err := sslFromEnv()
	if err != nil {
		return Config{}, fmt.Errorf("cannot read the TLS settings for the agent: %w", err)
	}
	return Config{Config: cfg, Token: os.Getenv(tokenVariable), SSL: ssl}, nil
}
