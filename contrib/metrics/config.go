package metrics

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/flagvalue"
	"github.com/k8sm/k8sm/contrib/membership"
)

// DefaultPort is the default listen port.
const DefaultPort = 10260

// Config configures one server. AddFlags sets the defaults.
type Config struct {
	// Dir has the server's identity, certificates and stored metrics.
	Dir statedir.Dir
	// Kubeconfig is the kubeconfig file for the API servers.
	Kubeconfig string
	// Address is the IP address on which the server listens, which all API servers of the cluster must reach.
	Address string
	Port    int
	// ClusterName is the cluster's name, as the scheduler has it.
	ClusterName string
	// DNS are the "host:port" at which DNS servers beside this server serve their metrics.
	DNS []string
	// Logs is the "host:port" of the log store beside this server; "" if there is none.
	Logs string
	Storage
}

// AddFlags adds the flags of `km metrics`. Dir and Kubeconfig have none.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.Address, "address", "", "IP address to listen on, which the cluster's API servers must reach")
	fs.IntVar(&c.Port, "port", DefaultPort, "TCP port to listen on")
	fs.StringVar(&c.ClusterName, "cluster-name", "k8sm", "`name` of the cluster, as given to km scheduler")
	fs.StringSliceVar(&c.DNS, "dns-metrics", nil, "`host:port,...` of the metrics of the DNS servers on this machine")
	fs.StringVar(&c.Logs, "logs", "", "`host:port` of the log store on this machine")
	c.addFlags(fs, "")
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
	if c.ClusterName == "" || strings.Contains(c.ClusterName, "/") {
		return fmt.Errorf("cannot use --cluster-name=%s: give a name without a slash", c.ClusterName)
	}
	return c.Storage.validate(prefix)
}

// listen is the server's address.
func (c Config) listen() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(c.Address), uint16(c.Port))
}

// file is the configuration as a file of flags, as --config takes it.
func (c Config) file() ([]byte, error) {
	return yaml.Marshal(map[string]any{
		"address": c.Address, "port": strconv.Itoa(c.Port), "cluster-name": c.ClusterName, "dns-metrics": append([]string{}, c.DNS...), "logs": c.Logs,
		"retention": (*flagvalue.Retention)(&c.Retention).String(), "max-size": (*flagvalue.Size)(&c.MaxSize).String(), "scrape-config": c.ScrapeConfig,
		"rules": c.Rules, "alertmanager": append([]string{}, c.Alertmanagers...),
	})
}
