package mesos

import (
	"fmt"
	"os"

	"github.com/mesos/mesos-go/api/v1/lib/executor/config"
)

// Config is what an agent tells its executors by their environment
// (https://mesos.apache.org/documentation/latest/executor-http-api/#executor-environment-variables).
type Config struct {
	config.Config
	// Token authenticates the executor to an agent that asks for it; empty for none. It is a secret.
	Token string
	SSL   SSL
}

// ConfigFromEnv reads the environment that the agent has set for this process.
func ConfigFromEnv() (Config, error) {
	if os.Getenv("MESOS_AGENT_ENDPOINT") == "" {
		return Config{}, fmt.Errorf("cannot act as an executor: MESOS_AGENT_ENDPOINT is not set; a Mesos agent starts this program, not a person")
	}
	cfg, err := config.FromEnv()
	if err != nil {
		return Config{}, fmt.Errorf("cannot read the executor's environment: %w", err)
	}
	ssl, err := sslFromEnv()
	if err != nil {
		return Config{}, fmt.Errorf("cannot read how to speak TLS to the agent: %w", err)
	}
	return Config{Config: cfg, Token: os.Getenv("MESOS_EXECUTOR_AUTHENTICATION_TOKEN"), SSL: ssl}, nil
}
