package run

import (
	"errors"

	"github.com/k8sm/k8sm/scheduler"
)

// Config is the configuration of a running scheduler: that of the core, its identity, and what minions get.
type Config struct {
	scheduler.Config
	// Identity names this scheduler in the leader election.
	Identity string
	// Cluster and APIServer are for the minions' api.Bootstrap, and so is what CA returns when a minion is prepared; nil for no CA. It may
	// be called concurrently.
	Cluster   string
	APIServer string
	CA        func() ([]byte, error)
	// APIServers returns the "host:port" of all API servers for api.Bootstrap; nil if only APIServer is known. It may be called
	// concurrently.
	APIServers func() []string
	// Artifact is what agents fetch if KMPath is empty.
	Artifact Artifact
}

// Validate returns an error for the first invalid value.
func (c *Config) Validate() error {
	if err := c.Config.Validate(); err != nil {
		return err
	}
	if c.KMPath == "" && c.Artifact.URL == "" {
		return errors.New("the Mesos agents have no km: give --km-path, or let them fetch it from --artifact-address")
	}
	return nil
}
