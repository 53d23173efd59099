package minion

import (
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
)

// maxSocketPath is how long the path of a Unix socket may be on Linux.
const maxSocketPath = 107

// layout names the files of one node below the root directory. It outlives sandboxes: a new executor finds the old one's
// certificate, volumes and logs.
type layout struct{ dir string }

// newLayout gives the node a directory of its own, under a shorter name if the node's would make a socket's path too long.
func newLayout(root, cluster, node string) (layout, error) {
	l := layout{filepath.Join(root, cluster, node)}
	if len(l.longestSocket()) > maxSocketPath {
		h := fnv.New32a()
		h.Write([]byte(node))
		l.dir = filepath.Join(root, cluster, fmt.Sprintf("%08x", h.Sum32()))
	}
	if excess := len(l.longestSocket()) - maxSocketPath; excess > 0 {
		return layout{}, fmt.Errorf("cannot keep the node's files below %s: the path is %d characters too long for the sockets in it", root, excess)
	}
	return l, nil
}

// make makes the directories, readable by root alone.
func (l layout) make() error {
	for _, dir := range []string{l.dir, l.pki(), l.podLogs(), l.cri()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("cannot make the node's directory: %w", err)
		}
	}
	return nil
}

func (l layout) longestSocket() string {
	return filepath.Join(l.kubelet(), "pod-resources", "kubelet.sock")
}

func (l layout) leftovers() string           { return filepath.Join(l.dir, "leftovers.json") }
func (l layout) socket() string              { return filepath.Join(l.dir, "cri.sock") }
func (l layout) cri() string                 { return filepath.Join(l.dir, "cri") }
func (l layout) network() string             { return filepath.Join(l.dir, "network") }
func (l layout) cni() string                 { return filepath.Join(l.dir, "cni") }
func (l layout) kubelet() string             { return filepath.Join(l.dir, "kubelet") }
func (l layout) podLogs() string             { return filepath.Join(l.dir, "pod-logs") }
func (l layout) volumePlugins() string       { return filepath.Join(l.dir, "volume-plugins") }
func (l layout) pki() string                 { return filepath.Join(l.dir, "pki") }
func (l layout) ca() string                  { return filepath.Join(l.pki(), "ca.crt") }
func (l layout) certificate() string         { return filepath.Join(l.pki(), "kubelet-client-current.pem") }
func (l layout) kubeconfig() string          { return filepath.Join(l.dir, "kubeconfig") }
func (l layout) bootstrapKubeconfig() string { return filepath.Join(l.dir, "bootstrap-kubeconfig") }
func (l layout) kubeletConfig() string       { return filepath.Join(l.dir, "kubelet.yaml") }
func (l layout) cgroups() string             { return filepath.Join(l.dir, "cgroups") }
func (l layout) proxyConfig() string         { return filepath.Join(l.dir, "proxy.yaml") }
