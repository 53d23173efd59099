package run

import (
	"errors"

	"github.com/k8sm/k8sm/scheduler"
)

// Config is the configuration of a scheduler that runs: the rules of the core, its own identity, and what it tells minions.
type Config struct {
	scheduler.Config
	// Identity names this scheduler among those that may lead.
	Identity string
	// Cluster, APIServer and CA are what minions are told (api.Bootstrap).
	Cluster   string
	APIServer string
	CA        []byte
	// DockerHost is the address of the Docker Engine on the agents; "" for the usual one. Minions get it in their command.
	DockerHost string
	// Artifact is what agents fetch if KMPath is empty.
	Artifact Artifact
}

// Validate returns an error that names the first value that cannot work.
func (c *Config) Validate() error {
	if err := c.Config.Validate(); err != nil {
		return err
	}
	if c.KMPath == "" && c.Artifact.URL == "" {
		return errors.New("the Mesos agents have no km: give --km-path, or let them fetch it from --artifact-address")
	}
	return nil
}
