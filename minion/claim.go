package minion

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/k8sm/k8sm/executor"
	"github.com/k8sm/k8sm/minion/network"
	"github.com/k8sm/k8sm/minion/supervise"
)

// claimAgain is how often a minion asks for a network namespace that another cluster has.
const claimAgain = 10 * time.Second

// errOthers says that another cluster has this network namespace.
type errOthers struct{ cluster, node string }

func (e errOthers) Error() string {
	return fmt.Sprintf("cluster %s has this machine's network, with node %s: the kube-proxies of two clusters would overwrite each other's rules for services; "+
		"give each cluster machines of its own. If that cluster has left and its minion was killed, its warden cleans up within --minion-cleanup-delay", e.cluster, e.node)
}

// claims are the nodes of the clusters that have a network namespace: a directory per cluster, with a file per node that has the path
// of its leftovers. kube-proxy's chains have the same names in every cluster, so only one can have them. A claim holds as long as
// there may be something to remove, also after its minion was killed. It needs no other upkeep: /run is empty after a reboot.
type claims struct{ dir string }

// claimsHere are those of this network namespace.
func claimsHere() (claims, error) {
	lock, err := namespaceLock("cluster")
	return claims{lock + ".d"}, err
}

func (c claims) file(cluster, node string) string { return filepath.Join(c.dir, cluster, node) }

// take claims the namespace for a node, and calls mark, which must make the file leftovers. The error is an errOthers if another
// cluster has the namespace.
func (c claims) take(ctx context.Context, cluster, node, leftovers string, mark func()) error {
	unlock, err := lock(ctx, c.dir+".lock")
	if err != nil {
		return err
	}
	defer func() { _ = unlock() }()
	if err := c.refuseOthers(cluster); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.file(cluster, node)), 0o700); err != nil {
		return fmt.Errorf("cannot claim this machine's network: %w", err)
	}
	if err := os.WriteFile(c.file(cluster, node), []byte(leftovers), 0o600); err != nil {
		return fmt.Errorf("cannot claim this machine's network: %w", err)
	}
	mark()
	return nil
}

// refuseOthers returns an errOthers if another cluster has the namespace.
func (c claims) refuseOthers(cluster string) error {
	files, err := filepath.Glob(c.file("*", "*"))
	if err != nil {
		return fmt.Errorf("cannot find out which cluster has this machine's network: %w", err)
	}
	for _, file := range files {
		other, holder := filepath.Base(filepath.Dir(file)), filepath.Base(file)
		if other == cluster {
			continue
		}
		held, err := isHeld(file)
		if err != nil {
			return fmt.Errorf("cannot find out which cluster has this machine's network: %w", err)
		}
		if held {
			return errOthers{other, holder}
		}
	}
	return nil
}

// isHeld reports whether the claim in the file holds. It removes one that does not.
func isHeld(file string) (bool, error) {
	leftovers, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	if _, err := os.Stat(string(leftovers)); !errors.Is(err, os.ErrNotExist) {
		return true, err
	}
	return false, os.Remove(file)
}

// release gives up a node's claim.
func (c claims) release(cluster, node string) error {
	if err := os.Remove(c.file(cluster, node)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot give up the claim of this machine's network: %w", err)
	}
	return nil
}

// claimMachine waits until this cluster may have the network namespace. Until then no pod can run here, and tasks fail with the
// reason. mark makes the node's leftovers.
func (n *node) claimMachine(ctx context.Context, post func(executor.Event), mark func()) error {
	_, err := os.Stat(n.files.leftovers())
	n.first = errors.Is(err, os.ErrNotExist)
	for told := false; ; {
		err := n.claims.take(ctx, n.boot.Cluster, n.boot.Node, n.files.leftovers(), mark)
		var others errOthers
		if !errors.As(err, &others) {
			if err == nil && told {
				n.log.Info("the other cluster has left this machine's network")
				post(executor.Unfit{})
			}
			return err
		}
		if !told {
			n.log.Error(others)
			post(executor.Unfit{Reason: others.Error()})
			told = true
		}
		if err := supervise.Sleep(ctx, claimAgain); err != nil {
			return err
		}
	}
}

// noteForeignProxy notes a kube-proxy that is no minion's. It may have ended, so it is no reason to run no pods. Call it before this
// minion shares the machine.
func (n *node) noteForeignProxy() error {
	path, err := machineLock()
	if err != nil || !n.first {
		return err
	}
	alone, err := claim(path)
	if err != nil || alone == nil {
		return err // another minion's rules
	}
	if err := alone.Close(); err != nil || !network.HasServiceRules() {
		return err
	}
	n.foreign = []string{foreignProxy}
	n.log.Warn(foreignProxy)
	return nil
}

const foreignProxy = "another kube-proxy has made rules for services on this machine (chain KUBE-SERVICES): while it runs, it and this node's overwrite each other's; " +
	"stop the other Kubernetes here, or if it is gone, remove its rules with kube-proxy --cleanup"
