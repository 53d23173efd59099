package logs

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/flagvalue"
	"github.com/k8sm/k8sm/contrib/membership"
)

// DefaultPort is the default listen port.
const DefaultPort = 10261

const (
	// memory is how many bytes the store's caches and queries may take.
	memory = 128 << 20
	// queryMemory is how many bytes the process may take while queries run.
	queryMemory = 1 << 30
	// minFree is how many bytes of the disk stay free.
	minFree = 512 << 20
)

// Config configures one store. AddFlags sets the defaults.
type Config struct {
	// Dir has the store's identity, certificates and logs.
	Dir statedir.Dir
	// Kubeconfig is the kubeconfig file for the API servers.
	Kubeconfig string
	// Address is the IP address on which the store listens, which all API servers and minions of the cluster must reach.
	Address string
	Port    int
	// Retention is how long logs are kept.
	Retention time.Duration
	// MaxSize is how many bytes of disk they may take; 0 means any number.
	MaxSize int64
	// NamespaceRate is how many lines a second each namespace may write; 0 means any number.
	NamespaceRate int
	// Files are log files of the control plane that are stored, too, by the names under which they are.
	Files map[string]string
	// IngestAddress is the "host:port" at which tasks of other frameworks send logs by HTTP, and SyslogAddress that for syslog, by TCP and
	// UDP. Both are empty for none: whoever reaches them can send.
	IngestAddress, SyslogAddress string
}

// AddFlags adds the flags of `km logstore`. Dir and Kubeconfig have none.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.Address, "address", "", "IP address to listen on, which the cluster's API servers and nodes must reach")
	fs.IntVar(&c.Port, "port", DefaultPort, "TCP port to listen on")
	fs.StringToStringVar(&c.Files, "file", nil, "log `NAME=FILE` of the control plane to store, for km logs --components NAME")
	c.addFlags(fs, "")
}

// addFlags adds the flags of what is kept, whose names begin with the prefix.
func (c *Config) addFlags(fs *pflag.FlagSet, prefix string) {
	c.Retention, c.MaxSize = 7*24*time.Hour, 10<<30
	fs.Var((*flagvalue.Retention)(&c.Retention), prefix+"retention", "how `long` logs are kept, such as 36h, 7d or 1y; at least 1d")
	fs.Var((*flagvalue.Size)(&c.MaxSize), prefix+"max-size", "how much disk logs may take, as a `size` such as 512MiB or 10GiB; the oldest days go first, the last two stay. 0 means no limit")
	fs.StringVar(&c.IngestAddress, prefix+"ingest-address", "", "`host:port` at which tasks of other frameworks send logs by HTTP, in the protocols of Loki, OTLP and Elasticsearch; whoever reaches it can send, so mind the network (default: none)")
	fs.StringVar(&c.SyslogAddress, prefix+"syslog-address", "", "`host:port` at which they send logs by syslog, TCP and UDP, likewise (default: none)")
	fs.IntVar(&c.NamespaceRate, prefix+"namespace-rate", 0, "how many lines a second each namespace may write on average over a minute; more are dropped, counted, and told of in their place. 0 means no limit")
}

// Validate checks the settings. Errors name the flags of `km logstore`.
func (c Config) Validate() error { return c.validate("") }

// validate checks the settings. Errors name the flags, which begin with the prefix.
func (c Config) validate(prefix string) error {
	if c.Port < 1 || c.Port > 65535 {
		return fmt.Errorf("cannot use --%sport=%d: give a port from 1 to 65535", prefix, c.Port)
	}
	if err := membership.ValidateAddress(c.Address, "the cluster's API servers and nodes"); err != nil {
		return fmt.Errorf("cannot use --%saddress=%s: %w", prefix, c.Address, err)
	}
	if c.Retention < 24*time.Hour {
		return fmt.Errorf("cannot use --%sretention=%s: give at least 1d", prefix, (*flagvalue.Retention)(&c.Retention))
	}
	if c.MaxSize < 0 || c.MaxSize > 0 && c.MaxSize < 64<<20 {
		return fmt.Errorf("cannot use --%smax-size=%s: give at least 64MiB, or 0 for no limit", prefix, (*flagvalue.Size)(&c.MaxSize))
	}
	for name, address := range map[string]string{"ingest-address": c.IngestAddress, "syslog-address": c.SyslogAddress} {
		if address == "" {
			continue
		}
		if _, port, err := net.SplitHostPort(address); err != nil || port == "" || port == "0" {
			return fmt.Errorf("cannot use --%s%s=%s: give host:port, such as 10.0.0.5:9428", prefix, name, address)
		}
	}
	if c.NamespaceRate < 0 {
		return fmt.Errorf("cannot use --%snamespace-rate=%d: give a number of lines, or 0 for no limit", prefix, c.NamespaceRate)
	}
	return nil
}

// listen is the store's address.
func (c Config) listen() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(c.Address), uint16(c.Port))
}
