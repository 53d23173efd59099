package minion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/docker/docker/client"
	"github.com/sirupsen/logrus"
	"gopkg.in/natefinch/lumberjack.v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/minion/supervise"
	"github.com/k8sm/k8sm/minion/warden"
)

const (
	// cleanUpLimit bounds one attempt to remove it all.
	cleanUpLimit = 25 * time.Second
	// cleanUpAgain is how long after one that failed, because the Docker Engine is away, the next one follows.
	cleanUpAgain = 30 * time.Second
)

// leftovers says what a node has on its machine, as a file that is there while there may be something.
type leftovers struct {
	Cluster     string `json:"cluster"`
	Node        string `json:"node"`
	DockerHost  string `json:"dockerHost"`
	ClusterCIDR string `json:"clusterCIDR,omitempty"`
	// CleanupDelay is how long the node may be without a minion.
	CleanupDelay *metav1.Duration `json:"cleanupDelay,omitempty"`
	// Network says what has given the pods their network.
	Network api.PodNetwork `json:"network,omitzero"`
}

// CleanUp removes what minions of the cluster left on this machine that did not stop in order, because they or the machine
// were killed and none came after them: containers, networks, rules and mounts, and of them only those of the cluster's
// nodes, or of one of them. Files stay. It waits for minions that still run, until ctx ends. rootDir is where the minions keep
// their files. What it removes is that of its process's network namespace.
func CleanUp(ctx context.Context, cluster, rootDir, node string) error {
	left, err := nodesLeft(cluster, rootDir)
	problems := []error{err}
	for _, n := range left {
		if node == "" || node == n.boot.Node {
			problems = append(problems, n.cleanUpWhenFree(ctx))
		}
	}
	return errors.Join(problems...)
}

// Left are the names of the cluster's nodes that have something on this machine, or may have.
func Left(cluster, rootDir string) (names []string, err error) {
	nodes, err := nodesLeft(cluster, rootDir)
	for _, n := range nodes {
		names = append(names, n.boot.Node)
	}
	return names, err
}

func nodesLeft(cluster, rootDir string) (nodes []*node, err error) {
	root := filepath.Join(firstGiven(rootDir, defaultRootDir), cluster)
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot find what minions left: %w", err)
	}
	var problems []error
	for _, entry := range entries {
		files := layout{filepath.Join(root, entry.Name())}
		if _, err := os.Stat(files.leftovers()); err != nil {
			continue
		}
		n, err := nodeLeft(files)
		if err == nil {
			nodes = append(nodes, n)
		}
		problems = append(problems, err)
	}
	return nodes, errors.Join(problems...)
}

func (n *node) cleanUpWhenFree(ctx context.Context) error {
	unlock, err := lock(ctx, n.locks().Node)
	if err != nil {
		return err
	}
	defer func() { _ = unlock() }()
	return n.cleanUp(ctx)
}

// CleanUpKilled is what a warden does when its node has been without a minion for too long: it removes what CleanUp does,
// of this node. If that fails, because the Docker Engine is away, it becomes a warden again, which waits once more: a
// minion that comes meanwhile finds all that is still there. marker is the warden's: the node's leftovers. The caller's
// process holds the node's lock.
func CleanUpKilled(ctx context.Context, marker string) error {
	files := layout{filepath.Dir(marker)}
	log := files.wardenLog()
	defer log.Close()
	logrus.SetOutput(log)
	logrus.Warn("the minion was killed and none has followed: removing what it left on this machine")
	attempt, cancel := context.WithTimeout(ctx, cleanUpLimit)
	defer cancel()
	n, err := nodeLeft(files)
	if err == nil {
		err = n.cleanUp(attempt)
	}
	if err != nil && ctx.Err() == nil {
		logrus.Errorf("trying again in %s if there is no minion then: %s", cleanUpAgain, err)
		return warden.Again(cleanUpAgain)
	}
	warden.Leave()
	return err
}

// nodeLeft is the node as its last minion left it.
func nodeLeft(files layout) (*node, error) {
	data, err := os.ReadFile(files.leftovers())
	if err != nil {
		return nil, fmt.Errorf("cannot find out what a minion left: %w", err)
	}
	var left leftovers
	if err := json.Unmarshal(data, &left); err != nil {
		return nil, fmt.Errorf("cannot find out what a minion left, from %s: %w", files.leftovers(), err)
	}
	n := &node{
		boot:     api.Bootstrap{Cluster: left.Cluster, Node: left.Node},
		cluster:  api.MinionConfig{DockerHost: left.DockerHost, ClusterCIDR: left.ClusterCIDR, Network: left.Network.Settled(), CleanupDelay: left.CleanupDelay},
		files:    files,
		settings: settings{files: files},
		log:      logrus.WithField("node", left.Node),
	}
	n.env.Sandbox = files.dir // for the log of what is started
	return n, nil
}

// cleanUp stops a node of which nothing runs here but what its minion left.
func (n *node) cleanUp(ctx context.Context) (err error) {
	shared, err := shareThisMachine()
	if err != nil {
		return err
	}
	defer shared.Close()
	if n.docker, err = client.NewClientWithOpts(client.WithHost(n.cluster.DockerHost), client.WithAPIVersionNegotiation()); err != nil {
		return fmt.Errorf("cannot use Docker Engine at %s: %w", n.cluster.DockerHost, err)
	}
	defer n.docker.Close()
	// Without the Engine nothing is touched: what runs in it still needs its mounts and rules.
	if _, err := n.docker.Ping(ctx); err != nil {
		return fmt.Errorf("cannot reach Docker Engine at %s: %w", n.cluster.DockerHost, err)
	}
	if n.network, err = n.newNetwork(); err != nil {
		return err
	}
	return n.stop(ctx, parts{}, shared)
}

// guard leaves word of what has to be removed if this minion is killed, and sees to it that there is a warden to do so.
// The caller holds the node's lock.
func (n *node) guard() error {
	data, err := json.Marshal(leftovers{
		Cluster: n.boot.Cluster, Node: n.boot.Node, DockerHost: n.cluster.DockerHost, ClusterCIDR: n.cluster.ClusterCIDR,
		Network: n.cluster.Network, CleanupDelay: n.cluster.CleanupDelay,
	})
	if err != nil {
		return fmt.Errorf("cannot note what the node has on this machine: %w", err)
	}
	if err := os.WriteFile(n.files.leftovers(), data, 0o600); err != nil {
		return fmt.Errorf("cannot note what the node has on this machine: %w", err)
	}
	log, err := os.OpenFile(n.files.wardenLog().Filename, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot start the node's warden: %w", err)
	}
	defer log.Close()
	return n.locks().Start(log, supervise.Env())
}

// wardenLog is the log of the node's warden, which is to be read when the sandbox is gone.
func (l layout) wardenLog() *lumberjack.Logger {
	return &lumberjack.Logger{Filename: filepath.Join(l.dir, "warden.log"), MaxSize: 1 /* MB */, MaxBackups: 1}
}

// locks are the node's locks and what its warden has to know. They are found without the cluster's configuration: a
// minion that has to wait for that is a minion all the same.
func (n *node) locks() warden.Watch {
	dir := filepath.Join(nodeLocks, n.boot.Cluster, n.boot.Node)
	return warden.Watch{
		Node: filepath.Join(dir, "minion"), Post: filepath.Join(dir, "warden"),
		Marker: n.files.leftovers(), Container: filepath.Base(n.env.Directory), Patience: n.patience(),
	}
}

// patience is how long the node may be without a minion before its warden removes what is left of it.
func (n *node) patience() time.Duration {
	return firstDuration(n.cluster.CleanupDelay, nil, api.DefaultCleanupDelay).Duration
}
