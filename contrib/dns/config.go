package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/k8sm/k8sm/contrib/membership"
	"github.com/spf13/pflag"
)

// DefaultPort is the default listen port. It is not 53, because another DNS server may listen there on the same machine.
const DefaultPort = 10053

// DefaultMetricsPort is the default port of the metrics beside a control plane.
const DefaultMetricsPort = 10063

// Config configures one server. AddFlags sets the defaults.
type Config struct {
	// Kubeconfig is a kubeconfig file for the API servers, and APIServer the URL of one of them.
	Kubeconfig, APIServer string
	// Address is the IP address on which the server listens for UDP and TCP. Nodes and pods must reach it. The default is the
	// address from which this machine reaches APIServer.
	Address string
	Port    int
	// HealthAddress serves /healthz, /livez and /readyz over HTTP; empty means loopback, at Port.
	HealthAddress string
	Metrics
	Forwarding
	Access
}

// Metrics configures Prometheus metrics over HTTPS, for clients with a certificate of the CA only, and Go profiles for administrators.
type Metrics struct {
	Address                         string // empty serves none
	CertFile, KeyFile, ClientCAFile string
}

// validate checks that the required files are set and readable.
func (m Metrics) validate() error {
	if m.Address == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(m.Address); err != nil {
		return fmt.Errorf("cannot use --metrics-address=%s: %w", m.Address, err)
	}
	_, err := m.tls()
	return err
}

// Forwarding says what a server does with names outside the cluster.
type Forwarding struct {
	// Upstreams are the DNS servers to query, as ADDRESS or ADDRESS:PORT; the default are those in the machine's resolv.conf.
	Upstreams []string
	// Import is a file with further CoreDNS plugins, in the syntax of a Corefile's server block; empty for none.
	Import string
}

// AddFlags adds the flags of `km dns`. APIServer has none.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.Kubeconfig, "kubeconfig", "", "kubeconfig `file` for the API server (default: the state directory's)")
	fs.StringVar(&c.Address, "address", "",
		"IP address to listen on, which nodes and pods must reach (default: the one from which this machine reaches the API server)")
	fs.IntVar(&c.Port, "port", DefaultPort, "UDP and TCP port to listen on")
	fs.StringVar(&c.HealthAddress, "health-address", "", "`address:port` that serves /healthz, /livez and /readyz by HTTP (default: 127.0.0.1 and --port)")
	fs.StringVar(&c.Metrics.Address, "metrics-address", "", "`address:port` that serves Prometheus metrics by HTTPS, to clients with a certificate from --client-ca-file, and /debug/pprof to those of group system:masters (default: none)")
	fs.StringVar(&c.CertFile, "tls-cert-file", "", "with --metrics-address: server certificate (default: the state directory's)")
	fs.StringVar(&c.KeyFile, "tls-private-key-file", "", "with --metrics-address: key of --tls-cert-file")
	fs.StringVar(&c.ClientCAFile, "client-ca-file", "", "with --metrics-address: CA of the clients that may read metrics (default: the cluster's)")
	c.Forwarding.addFlags(fs, "")
	c.Access.addFlags(fs, "")
}

func (f *Forwarding) addFlags(fs *pflag.FlagSet, prefix string) {
	fs.StringSliceVar(&f.Upstreams, prefix+"upstream", nil,
		"servers for names outside the cluster, as `ADDRESS[:PORT],...` (default: those in this machine's /etc/resolv.conf)")
	fs.StringVar(&f.Import, prefix+"import", "",
		"`file` with more CoreDNS plugins, one per line as in a Corefile's server block, such as: forward corp.example 10.1.2.3")
}

// validate checks the settings. Errors name the flags, which begin with the prefix.
func (f Forwarding) validate(prefix string) error {
	for _, upstream := range f.Upstreams {
		if _, err := parseUpstream(upstream); err != nil {
			return fmt.Errorf("cannot use --%supstream=%s: %w", prefix, upstream, err)
		}
	}
	if f.Import == "" {
		return nil
	}
	if _, err := os.ReadFile(f.Import); err != nil {
		return fmt.Errorf("cannot use --%simport: %w", prefix, err)
	}
	return nil
}

// absolute makes the paths absolute, because a Corefile's imports are relative to itself.
func (f Forwarding) absolute() (Forwarding, error) {
	if f.Import == "" {
		return f, nil
	}
	path, err := filepath.Abs(f.Import)
	if err != nil {
		return f, fmt.Errorf("cannot find %s: %w", f.Import, err)
	}
	f.Import = path
	return f, nil
}

// Validate tells by the names of the flags what cannot be followed. It starts nothing.
func (c Config) Validate() error {
	if c.Port < 1 || c.Port > 65535 {
		return fmt.Errorf("cannot use --port=%d: give a port from 1 to 65535", c.Port)
	}
	if c.Address != "" {
		if err := validateAddress(c.Address); err != nil {
			return fmt.Errorf("cannot use --address=%s: %w", c.Address, err)
		}
	}
	if c.HealthAddress != "" {
		if _, _, err := net.SplitHostPort(c.HealthAddress); err != nil {
			return fmt.Errorf("cannot use --health-address=%s: %w", c.HealthAddress, err)
		}
	}
	return errors.Join(c.Metrics.validate(), c.Forwarding.validate(""), c.Access.validate(""))
}

// validateAddress rejects addresses that the service cannot have.
func validateAddress(text string) error { return membership.ValidateAddress(text, "pods on all nodes") }

func (c Config) health() string {
	if c.HealthAddress != "" {
		return c.HealthAddress
	}
	return loopback(c.Port)
}

// loopback returns an address that only this machine reaches.
func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// listenAddress returns the configured address, or the one from which this machine reaches the API server.
func (c Config) listenAddress(ctx context.Context) (netip.Addr, error) {
	if c.Address != "" {
		return netip.ParseAddr(c.Address)
	}
	server, err := url.Parse(c.APIServer)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot read the API server's address: %w", err)
	}
	// This sends no packet: it only asks the kernel for a route.
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", net.JoinHostPort(server.Hostname(), "53"))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot find this machine's address: %w; give --address", err)
	}
	defer conn.Close()
	address := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	if err := validateAddress(address.String()); err != nil {
		return netip.Addr{}, fmt.Errorf("cannot listen on %s, from which the API server is reached: %w, by --address", address, err)
	}
	return address, nil
}

// parseUpstream parses a server's address with an optional port.
func parseUpstream(text string) (netip.AddrPort, error) {
	if full, err := netip.ParseAddrPort(text); err == nil {
		return full, nil
	}
	ip, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return netip.AddrPort{}, errors.New("give an IP address such as 10.0.0.2, or 10.0.0.2:5353")
	}
	return netip.AddrPortFrom(ip, 53), nil
}
