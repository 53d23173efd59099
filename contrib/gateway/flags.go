package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/api/statedir"
)

// DefaultMaxWatches is the default of --v1beta1-max-watches.
const DefaultMaxWatches = 10000

// Config configures the server. AddFlags sets the defaults.
type Config struct {
	// Address is "host:port"; "" is for no server. Port 0 takes any free port.
	Address string
	// Insecure makes callers on this machine that show no credentials the administrator.
	Insecure bool
	// MaxWatches is how many watches are open at once, at most.
	MaxWatches int

	// StateDir has the certificates and the administrator's kubeconfig, and gets the record of the address.
	StateDir statedir.Dir
}

// AddFlags adds the flags of a control plane for its v1beta1 API. StateDir has none.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.Address, "v1beta1-address", "",
		"`host:port` on which clients of 2014 get the APIs v1beta1 and v1beta2, such as 127.0.0.1:8080: HTTPS with a certificate of the cluster, and HTTP on loopback (default: they are not served)")
	fs.BoolVar(&c.Insecure, "v1beta1-insecure", false,
		"with --v1beta1-address on loopback: make every program on this machine that shows no credentials the cluster's administrator, as in 2014")
	fs.IntVar(&c.MaxWatches, "v1beta1-max-watches", DefaultMaxWatches, "with --v1beta1-address: how many watches may be open at once")
}

// Enabled tells whether the APIs are served.
func (c Config) Enabled() bool { return c.Address != "" }

// Validate checks the settings. Errors name the flags.
func (c Config) Validate() error {
	if !c.Enabled() {
		if c.Insecure {
			return errors.New("cannot use --v1beta1-insecure without --v1beta1-address")
		}
		return nil
	}
	_, port, err := net.SplitHostPort(c.Address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("cannot use --v1beta1-address=%s: give host:port, such as 127.0.0.1:8080", c.Address)
	}
	if c.Insecure && !isLoopback(c.host()) {
		return fmt.Errorf("cannot use --v1beta1-insecure with --v1beta1-address=%s: everybody who reaches it would be the administrator; give an address on loopback, such as 127.0.0.1:8080", c.Address)
	}
	if c.MaxWatches < 1 {
		return fmt.Errorf("cannot use --v1beta1-max-watches=%d: give a number from 1", c.MaxWatches)
	}
	return nil
}

// Names are the host names and addresses, beside loopback's, that clients may know the server by: those that its certificate needs.
func (c Config) Names() []string {
	host := c.host()
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return nil
	}
	return []string{host}
}

func (c Config) host() string {
	host, _, _ := net.SplitHostPort(c.Address) // Validate has checked it
	return host
}

// isLoopback tells whether only this machine reaches a host. A name may resolve to anything, but for localhost.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// listen takes the port.
func (c Config) listen() (net.Listener, error) {
	l, err := net.Listen("tcp", c.Address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("cannot serve v1beta1 on %s: %w; stop the program that uses it, or give another --v1beta1-address", c.Address, syscall.EADDRINUSE)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot serve v1beta1: %w; give another --v1beta1-address", err)
	}
	return l, nil
}
