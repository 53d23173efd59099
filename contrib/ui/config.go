package ui

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/spf13/pflag"
)

// DefaultAddress is the default of --ui-address.
const DefaultAddress = "127.0.0.1:8443"

// Config configures the server. AddFlags sets the defaults.
type Config struct {
	// Address is "host:port"; "" is for no server. Port 0 takes any free port.
	Address string
	// ReadOnly refuses all that changes something.
	ReadOnly bool
	// CertFile and KeyFile are the server's certificate; "" for the cluster's.
	CertFile, KeyFile string

	// OIDC is how people log in by OpenID Connect.
	OIDC OIDC
	// StatusAddress is "host:port" at which a scheduler serves its status; "" to ask Scheduler.
	StatusAddress string

	// Scheduler returns "host:port" at which the leading scheduler serves its status; nil if the page shows nothing of Mesos. It may be
	// called concurrently.
	Scheduler func(ctx context.Context) (address string, err error)
	// Prefix begins the names of the flags.
	Prefix string
}

// AddFlags adds the flags. Their names begin with c.Prefix, and the default of the address is c.Address.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.Address, c.flag("address"), c.Address, "`host:port` on which the web page is served (HTTPS), such as "+DefaultAddress+"; \"\" serves none")
	fs.BoolVar(&c.ReadOnly, c.flag("read-only"), false, "let the web page change nothing and run nothing in pods, whatever its users may do")
	fs.StringVar(&c.CertFile, c.flag("cert-file"), "", "certificate of the web page, with the names by which browsers know it (default: one that browsers don't know)")
	fs.StringVar(&c.KeyFile, c.flag("private-key-file"), "", "key of --"+c.flag("cert-file"))
	fs.StringVar(&c.OIDC.IssuerURL, c.flag("oidc-issuer-url"), "", "`URL` (https) of an OpenID Connect issuer at which people log in to the web page; the API server must accept its tokens (--oidc-issuer-url)")
	fs.StringVar(&c.OIDC.ClientID, c.flag("oidc-client-id"), "", "with --"+c.flag("oidc-issuer-url")+": client `ID` that the API server's tokens are for (--oidc-client-id), a public client with PKCE")
	fs.StringVar(&c.OIDC.CAFile, c.flag("oidc-ca-file"), "", "with --"+c.flag("oidc-issuer-url")+": CA of the issuer's certificate (default: the machine's CAs)")
	fs.StringVar(&c.StatusAddress, c.flag("status-address"), "", "`host:port` of the scheduler's status server, for what the web page shows of Mesos (default: the leading scheduler's)")
}

func (c Config) flag(name string) string { return c.Prefix + name }

// Enabled tells whether the page is served.
func (c Config) Enabled() bool { return c.Address != "" }

// Names are the host names and addresses, beside loopback's, that browsers may know the server by: those that its certificate needs.
func (c Config) Names() []string {
	host, _, _ := net.SplitHostPort(c.Address) // Validate has checked it
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return nil
	}
	return []string{host}
}

// Validate checks the settings. Errors name the flags.
func (c Config) Validate() error {
	if (c.CertFile == "") != (c.KeyFile == "") {
		return fmt.Errorf("give --%s and --%s, or neither", c.flag("cert-file"), c.flag("private-key-file"))
	}
	if err := c.OIDC.validate(c.flag); err != nil {
		return err
	}
	if !c.Enabled() {
		if c.ReadOnly || c.CertFile != "" || c.OIDC.IssuerURL != "" {
			return fmt.Errorf("cannot use --%s, --%s or --%s without --%s", c.flag("read-only"), c.flag("cert-file"), c.flag("oidc-issuer-url"), c.flag("address"))
		}
		return nil
	}
	_, port, err := net.SplitHostPort(c.Address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("cannot use --%s=%s: give host:port, such as %s", c.flag("address"), c.Address, DefaultAddress)
	}
	return nil
}
