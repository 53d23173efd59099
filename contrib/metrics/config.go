package metrics

import (
	"fmt"
	"net/netip"

	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/membership"
)

// DefaultPort is the default listen port.
const DefaultPort = 10260

// Config configures one server. AddFlags sets the defaults.
type Config struct {
	// Dir has the server's identity and certificates.
	Dir statedir.Dir
	// Address is the IP address on which the server listens, which all API servers of the cluster must reach.
	Address string
	Port    int
}

// AddFlags adds the flags of `km metrics`. Dir has none.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.Address, "address", "", "IP address to listen on, which the cluster's API servers must reach")
	fs.IntVar(&c.Port, "port", DefaultPort, "TCP port to listen on")
}

// Validate checks the settings. Errors name the flags of `km metrics`.
func (c Config) Validate() error { return c.validate("") }

// validate checks the settings. Errors name the flags, which begin with the prefix.
func (c Config) validate(prefix string) error {
	if c.Port < 1 || c.Port > 65535 {
		return fmt.Errorf("cannot use --%sport=%d: give a port from 1 to 65535", prefix, c.Port)
	}
	if err := membership.ValidateAddress(c.Address, "the cluster's API servers"); err != nil {
		return fmt.Errorf("cannot use --%saddress=%s: %w", prefix, c.Address, err)
	}
	return nil
}

// listen is the server's address.
func (c Config) listen() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(c.Address), uint16(c.Port))
}
