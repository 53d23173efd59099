package cri

import (
	"fmt"
	"path/filepath"

	"github.com/docker/docker/client"
)

// Connect returns a client of the Docker Engine at the address, not yet connected. A "tcp://" Engine is reached by TLS if certPath, a
// directory as DOCKER_CERT_PATH, is not empty: ca.pem verifies the Engine, cert.pem and key.pem are shown to it
// (https://docs.docker.com/engine/security/protect-access/). The caller closes the client.
func Connect(host, certPath string) (*client.Client, error) {
	options := []client.Opt{client.WithHost(host), client.WithAPIVersionNegotiation()}
	if address, err := client.ParseHostURL(host); err == nil && address.Scheme == "tcp" && certPath != "" {
		file := func(name string) string { return filepath.Join(certPath, name) }
		options = append(options, client.WithTLSClientConfig(file("ca.pem"), file("cert.pem"), file("key.pem")))
	}
	docker, err := client.NewClientWithOpts(options...)
	if err != nil {
		return nil, fmt.Errorf("cannot use Docker Engine at %s: %w", host, err)
	}
	return docker, nil
}
