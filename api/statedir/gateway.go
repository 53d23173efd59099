package statedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Gateway is how programs on this machine reach a control plane's server of the v1beta1 API. They find it by Dir.Gateway.
type Gateway struct {
	// PID is the process id of the control plane.
	PID int `json:"pid"`
	// Address is "host:port" of the server, which serves HTTPS with a certificate of the cluster's CA, and HTTP if it is loopback.
	Address string `json:"address"`
	// Insecure says that callers on this machine are the administrator without credentials.
	Insecure bool `json:"insecure,omitempty"`
}

// gatewayNote is there while the server runs, and after a control plane was killed.
func (d Dir) gatewayNote() string { return d.path("gateway.json") }

// WriteGateway records the server's address. The file appears at once and whole.
func (d Dir) WriteGateway(g Gateway) error {
	data, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode the address of the v1beta1 API: %w", err)
	}
	return writeFile(d.gatewayNote(), append(data, '\n'))
}

// Gateway returns what WriteGateway recorded last. The error is ErrNoCluster without a record: no control plane runs here with the
// v1beta1 API. A killed control plane leaves its record behind.
func (d Dir) Gateway() (Gateway, error) {
	data, err := os.ReadFile(d.gatewayNote())
	if errors.Is(err, fs.ErrNotExist) {
		return Gateway{}, fmt.Errorf("%w in %s serves v1beta1: start km up or km apiserver with --v1beta1-address", ErrNoCluster, string(d))
	}
	if err != nil {
		return Gateway{}, fmt.Errorf("cannot read the address of the v1beta1 API: %w", err)
	}
	var g Gateway
	if err := json.Unmarshal(data, &g); err != nil {
		return Gateway{}, fmt.Errorf("cannot read the address of the v1beta1 API from %s: %w", d.gatewayNote(), err)
	}
	return g, nil
}

// RemoveGateway takes the record away, if there is one.
func (d Dir) RemoveGateway() error {
	if err := os.Remove(d.gatewayNote()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the record of the v1beta1 API: %w", err)
	}
	return nil
}
