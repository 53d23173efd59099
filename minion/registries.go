package minion

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/k8sm/k8sm/minion/registry"
)

// registryCAs writes the certificates that a node trusts for registries. Docker Engine reads them each time that it connects to one. The
// directory belongs to the operator, and to all nodes on the machine, of any cluster. So each node has files of its own and touches no
// others: Docker Engine trusts the certificates in all of them.
type registryCAs struct{ dir, cluster, node string }

func (n *node) registryCAs() registryCAs {
	return registryCAs{registry.Certificates, n.boot.Cluster, n.boot.Node}
}

// file is the name of the node's file in the folder of each registry. Cluster and node are hashed, because the names may be too long.
func (r registryCAs) file() string {
	sum := sha256.Sum256([]byte(r.cluster + "\x00" + r.node))
	return fmt.Sprintf("k8sm-%x.crt", sum[:8])
}

// sync writes a file for each registry, and removes the node's others. It is idempotent.
func (r registryCAs) sync(wanted map[string][]byte) error {
	if err := r.remove(wanted); err != nil {
		return err
	}
	for host, certificates := range wanted {
		if err := r.write(filepath.Join(r.dir, host), certificates); err != nil {
			return fmt.Errorf("cannot make Docker Engine trust the certificates for %s: %w", host, err)
		}
	}
	return nil
}

// write replaces the file at once: Docker Engine may read it at any time. It skips files that do not end in .crt, .cert or .key.
func (r registryCAs) write(dir string, certificates []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, r.file())
	content := fmt.Appendf(nil, "# For node %q of cluster %q. Its km minion writes this file, and removes it with the node.\n%s", r.node, r.cluster, certificates)
	if err := os.WriteFile(path+".new", content, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// remove removes the node's files for registries that are not wanted, and folders that are then empty.
func (r registryCAs) remove(wanted map[string][]byte) error {
	paths, err := filepath.Glob(filepath.Join(r.dir, "*", r.file()+"*"))
	if err != nil {
		return fmt.Errorf("cannot look for the certificates of registries: %w", err)
	}
	var problems []error
	for _, path := range paths {
		folder := filepath.Dir(path)
		if _, keep := wanted[filepath.Base(folder)]; keep {
			continue
		}
		if err := os.Remove(path); err != nil {
			problems = append(problems, fmt.Errorf("cannot remove the certificates of a registry: %w", err))
		}
		_ = os.Remove(folder) // fails if others have files there
	}
	return errors.Join(problems...)
}
