package minion

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/docker/docker/client"
	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/minion/network"
)

// CleanUp removes what minions of the cluster left on this machine that did not stop in order, because they or the machine
// were killed and none came after them: containers, networks, rules and mounts, and of them only those of the cluster's
// nodes. Files stay. It waits for minions that still run, until ctx ends. told is what the minions were told.
func CleanUp(ctx context.Context, cluster string, told api.MinionConfig) error {
	told, err := Config{}.settle(told)
	if err != nil {
		return err
	}
	root := told.RootDir
	nodes, err := os.ReadDir(filepath.Join(root, cluster))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot find what minions left: %w", err)
	}
	var problems []error
	for _, entry := range nodes {
		files := layout{filepath.Join(root, cluster, entry.Name())}
		if _, err := os.Stat(files.proxyConfig()); err == nil {
			problems = append(problems, cleanUpNode(ctx, api.Bootstrap{Cluster: cluster, Node: entry.Name()}, told, files))
		}
	}
	return errors.Join(problems...)
}

func cleanUpNode(ctx context.Context, boot api.Bootstrap, told api.MinionConfig, files layout) error {
	unlock, err := lock(ctx, files.lock())
	if err != nil {
		return err
	}
	defer func() { _ = unlock() }()
	shared, err := shareMachine(machineLock)
	if err != nil {
		return err
	}
	defer shared.Close()
	n := &node{
		boot: boot, cluster: told, files: files, settings: settings{files: files}, log: logrus.WithField("node", boot.Node),
	}
	n.env.Sandbox = files.dir // for the log of what is started
	if n.docker, err = client.NewClientWithOpts(client.WithHost(n.cluster.DockerHost), client.WithAPIVersionNegotiation()); err != nil {
		return fmt.Errorf("cannot use Docker Engine at %s: %w", n.cluster.DockerHost, err)
	}
	defer n.docker.Close()
	if n.network, err = network.New(network.Config{Cluster: boot.Cluster, Node: boot.Node, ClusterCIDR: told.ClusterCIDR, Docker: n.docker}); err != nil {
		return err
	}
	return n.stop(ctx, parts{}, shared)
}
