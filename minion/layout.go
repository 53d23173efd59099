package minion

import (
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
)

// maxSocketPath is the longest path of a Unix socket on Linux.
const maxSocketPath = 107

// layout names the files of one node below the root directory. They outlive sandboxes: a new executor finds the certificate, volumes
// and logs of the previous one.
type layout struct{ dir string }

// newLayout gives the node a directory of its own. It shortens the name if paths of sockets would become too long.
func newLayout(root, cluster, node string) (layout, error) {
	l := layout{filepath.Join(root, cluster, node)}
	if len(l.longestSocket()) > maxSocketPath {
		h := fnv.New32a()
		h.Write([]byte(node))
		l.dir = filepath.Join(root, cluster, fmt.Sprintf("%08x", h.Sum32()))
	}
	if excess := len(l.longestSocket()) - maxSocketPath; excess > 0 {
		return layout{}, fmt.Errorf("cannot keep the node's files below %s: the path is %d characters too long for Unix sockets; choose a shorter --root-dir", root, excess)
	}
	return l, nil
}

// make creates the directories, readable by root only.
func (l layout) make() error {
	for _, dir := range []string{l.dir, l.pki(), l.podLogs(), l.cri(), l.tools()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("cannot create the node's directory: %w", err)
		}
	}
	return nil
}

func (l layout) longestSocket() string {
	return filepath.Join(l.kubelet(), "pod-resources", "kubelet.sock")
}

func (l layout) apiServers() string    { return filepath.Join(l.dir, "api-servers.json") }
func (l layout) leftovers() string     { return filepath.Join(l.dir, "leftovers.json") }
func (l layout) tools() string         { return filepath.Join(l.dir, "tools") } // in kube-proxy's PATH
func (l layout) socket() string        { return filepath.Join(l.dir, "cri.sock") }
func (l layout) cri() string           { return filepath.Join(l.dir, "cri") }
func (l layout) network() string       { return filepath.Join(l.dir, "network") }
func (l layout) cni() string           { return filepath.Join(l.dir, "cni") }
func (l layout) commits() string       { return filepath.Join(l.dir, "commits") }
func (l layout) kubelet() string       { return filepath.Join(l.dir, "kubelet") }
func (l layout) podLogs() string       { return filepath.Join(l.dir, "pod-logs") }
func (l layout) nodeLogs() string      { return filepath.Join(l.dir, "node-logs") }
func (l layout) logs() string          { return filepath.Join(l.dir, "logs") }
func (l layout) volumePlugins() string { return filepath.Join(l.dir, "volume-plugins") }
func (l layout) pki() string           { return filepath.Join(l.dir, "pki") }
func (l layout) ca() string            { return filepath.Join(l.pki(), "ca.crt") }
func (l layout) certificate() string   { return filepath.Join(l.pki(), "kubelet-client-current.pem") }
func (l layout) servingCertificate() string {
	return filepath.Join(l.pki(), "kubelet-server-current.pem")
}

// credentials is the file of node-wide credentials for registries; kubelets read it in their root directory
// (https://kubernetes.io/docs/concepts/containers/images/#config-json).
func (l layout) credentials() string { return filepath.Join(l.kubelet(), "config.json") }

func (l layout) kubeconfig() string          { return filepath.Join(l.dir, "kubeconfig") }
func (l layout) bootstrapKubeconfig() string { return filepath.Join(l.dir, "bootstrap-kubeconfig") }
func (l layout) kubeletConfig() string       { return filepath.Join(l.dir, "kubelet.yaml") }
func (l layout) cgroups() string             { return filepath.Join(l.dir, "cgroups") }
func (l layout) proxyConfig() string         { return filepath.Join(l.dir, "proxy.yaml") }
