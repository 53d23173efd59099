package minion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
	"gopkg.in/natefinch/lumberjack.v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/logformat"
	"github.com/k8sm/k8sm/minion/cri"
	"github.com/k8sm/k8sm/minion/embedded"
	"github.com/k8sm/k8sm/minion/warden"
)

const (
	// cleanUpLimit bounds one attempt to remove everything.
	cleanUpLimit = 25 * time.Second
	// cleanUpAgain is the delay before the next attempt after one failed, usually because Docker Engine was down.
	cleanUpAgain = 30 * time.Second
)

// leftovers records what a node has on its machine. The file exists as long as there may be something to remove.
type leftovers struct {
	Cluster    string `json:"cluster"`
	Node       string `json:"node"`
	DockerHost string `json:"dockerHost"`
	// DockerCertPath is as in api.MinionConfig.
	DockerCertPath string `json:"dockerCertPath,omitempty"`
	ClusterCIDR    string `json:"clusterCIDR,omitempty"`
	// CleanupDelay is how long the node may be without a minion before its warden cleans up.
	CleanupDelay *metav1.Duration `json:"cleanupDelay,omitempty"`
	// LogFormat is as in api.MinionConfig.
	LogFormat string `json:"logFormat,omitempty"`
	// Network says which kind of network the pods use.
	Network api.PodNetwork `json:"network,omitzero"`
}

// CleanUp removes containers, networks, rules and mounts that killed minions of the cluster left on this machine. It touches only
// what belongs to the cluster's nodes, or to one of them if node is not empty. Files stay. CleanUp waits for minions that still run,
// until ctx ends. rootDir is where the minions keep their files. Only the network namespace of this process is cleaned.
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

// Left returns the names of the cluster's nodes that may have left something on this machine.
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
		return nil, fmt.Errorf("cannot list what minions left: %w", err)
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

// CleanUpKilled is run by a warden whose node has been without a minion for too long. It removes what CleanUp removes, for this node
// only. If Docker Engine is down, the process becomes a warden again and waits once more: a minion that starts meanwhile finds
// everything still there. work has the node's lock, which this gives back.
func CleanUpKilled(ctx context.Context, work *warden.Work) error {
	files := layout{filepath.Dir(work.Marker)}
	log := files.wardenLog()
	defer log.Close()
	logrus.SetOutput(files.component(log, "warden"))
	n, err := nodeLeft(files)
	if err == nil {
		logrus.SetFormatter(logformat.Format(n.cluster.LogFormat).Formatter())
	}
	logrus.Warn("the minion was killed and has not been replaced: removing what it left on this machine")
	attempt, cancel := context.WithTimeout(ctx, cleanUpLimit)
	defer cancel()
	if err == nil {
		err = n.cleanUp(attempt)
	}
	if err != nil && ctx.Err() == nil {
		logrus.Errorf("cannot clean up, retrying in %s unless a minion starts: %s", cleanUpAgain, err)
		return waitAgain(work, files)
	}
	work.Leave()
	return err
}

// waitAgain returns only with an error.
func waitAgain(work *warden.Work, files layout) error {
	program, err := embedded.Warden(files.dir)
	if err != nil {
		return err
	}
	defer program.Close()
	return work.Again(program.Path(), cleanUpAgain)
}

// nodeLeft rebuilds the node from the record of its last minion.
func nodeLeft(files layout) (*node, error) {
	data, err := os.ReadFile(files.leftovers())
	if err != nil {
		return nil, fmt.Errorf("cannot read what a minion left: %w", err)
	}
	var left leftovers
	if err := json.Unmarshal(data, &left); err != nil {
		return nil, fmt.Errorf("cannot read what a minion left from %s: %w", files.leftovers(), err)
	}
	here, err := claimsHere()
	if err != nil {
		return nil, err
	}
	n := &node{
		claims: here,
		boot:   api.Bootstrap{Cluster: left.Cluster, Node: left.Node},
		cluster: api.MinionConfig{
			DockerHost: left.DockerHost, DockerCertPath: left.DockerCertPath, ClusterCIDR: left.ClusterCIDR, Network: left.Network.Settled(), CleanupDelay: left.CleanupDelay,
			LogFormat: left.LogFormat,
		},
		files:    files,
		settings: settings{files: files},
		log:      logrus.WithField("node", left.Node),
	}
	n.env.Sandbox = files.dir // logs of child processes go there
	return n, nil
}

// cleanUp stops a node whose minion is gone.
func (n *node) cleanUp(ctx context.Context) (err error) {
	shared, err := shareThisMachine()
	if err != nil {
		return err
	}
	defer shared.Close()
	if n.docker, err = cri.Connect(n.cluster.DockerHost, n.cluster.DockerCertPath); err != nil {
		return err
	}
	defer n.docker.Close()
	// Touch nothing while Docker Engine is down: its containers still need their mounts and rules.
	if _, err := n.docker.Ping(ctx); err != nil {
		return fmt.Errorf("cannot reach Docker Engine at %s: %w", n.cluster.DockerHost, err)
	}
	if n.network, err = n.newNetwork(); err != nil {
		return err
	}
	return n.stop(ctx, parts{}, shared)
}

// guard records what must be removed if this minion is killed, and makes sure that a warden is running. The caller must hold the
// node's lock.
func (n *node) guard() error {
	data, err := json.Marshal(leftovers{
		Cluster: n.boot.Cluster, Node: n.boot.Node, DockerHost: n.cluster.DockerHost, DockerCertPath: n.cluster.DockerCertPath, ClusterCIDR: n.cluster.ClusterCIDR,
		Network: n.cluster.Network, CleanupDelay: n.cluster.CleanupDelay, LogFormat: n.cluster.LogFormat,
	})
	if err != nil {
		return fmt.Errorf("cannot record what the node has on this machine: %w", err)
	}
	if err := os.WriteFile(n.files.leftovers(), data, 0o600); err != nil {
		return fmt.Errorf("cannot record what the node has on this machine: %w", err)
	}
	return n.startWarden()
}

const unwarded = "cannot start a warden: if this minion is killed and not replaced, its containers keep running"

// guardOrWarn does without a warden if there can be none.
func (n *node) guardOrWarn() {
	if err := n.guard(); err != nil {
		n.log.WithError(err).Warn(unwarded)
		n.unwarded = []string{unwarded + ": " + err.Error()}
	}
}

func (n *node) startWarden() error {
	log, err := os.OpenFile(n.files.wardenLog().Filename, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot start the node's warden: %w", err)
	}
	defer log.Close()
	program, err := embedded.Warden(n.files.dir)
	if err != nil {
		return err
	}
	defer program.Close()
	watch := n.locks()
	if watch.Build, err = build(self); err != nil {
		return err
	}
	return watch.Start(warden.Launch{Program: program.Path(), Container: filepath.Base(n.env.Directory), Log: log, Env: os.Environ()})
}

// wardenLog is the log of the node's warden. It outlives the sandbox.
func (l layout) wardenLog() *lumberjack.Logger {
	return &lumberjack.Logger{Filename: filepath.Join(l.dir, "warden.log"), MaxSize: 1 /* MB */, MaxBackups: 1}
}

// locks returns the node's locks and what its warden watches. It does not need the cluster's configuration: a minion that still
// waits for that counts as running.
func (n *node) locks() warden.Watch {
	dir := filepath.Join(nodeLocks, n.boot.Cluster, n.boot.Node)
	return warden.Watch{
		Node: filepath.Join(dir, "minion"), Post: filepath.Join(dir, "warden"),
		Marker: n.files.leftovers(), Patience: n.patience(),
	}
}

// patience is how long the node may be without a minion before its warden cleans up.
func (n *node) patience() time.Duration {
	return firstDuration(n.cluster.CleanupDelay, nil, api.DefaultCleanupDelay).Duration
}
