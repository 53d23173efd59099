package mesos

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/api/mesoshttp"
)

// Config says how to reach Mesos, and as which framework.
type Config struct {
	// Masters are HOST:PORT addresses or http(s) URLs of masters, each of which redirects to the leading one. Or they are one URL
	// zk://[USER:PASSWORD@]HOST:PORT,.../PATH, whole or split at its commas, of the ZooKeeper that knows the leading one.
	Masters []string
	// Roles are those whose resources the framework uses, the preferred one first.
	Roles []string
	// Revocable also uses resources that Mesos may take back.
	Revocable bool
	// User runs the executors on the agents.
	User string
	// Name is the framework's name in Mesos.
	Name string
	// WebUIURL is the link from the framework's name in Mesos; may be empty.
	WebUIURL string
	// Principal and SecretFile authenticate the framework by HTTP basic; empty if the master needs no authentication.
	Principal, SecretFile string
	// CAFile is the authority of https masters; the default is the system's. CertFile and KeyFile are the client certificate for
	// masters that require one; empty for none. With any of these, masters from ZooKeeper use https: ZooKeeper does not say.
	CAFile, CertFile, KeyFile string
	// RegionAware also uses agents in other regions than the master's.
	RegionAware bool
	// FailoverTimeout is how long Mesos keeps the tasks while no scheduler is connected.
	FailoverTimeout time.Duration
	// ConnectTimeout is how long to try for the first subscription. After that one, there is no limit.
	ConnectTimeout time.Duration

	// Forget is the command that deletes the stored framework id, for the error when Mesos has removed the framework. It has no
	// flag.
	Forget string
}

// AddFlags registers the flags; the values that c holds are overwritten by the defaults.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	fs.StringSliceVar(&c.Masters, "mesos-master", []string{"127.0.0.1:5050"},
		"Mesos masters as HOST:PORT[,HOST:PORT] or http(s) URLs, any of which redirects to the leader; or zk://[USER:PASSWORD@]HOST:PORT[,HOST:PORT]/PATH "+
			"to find the leader in ZooKeeper")
	fs.StringSliceVar(&c.Roles, "mesos-roles", []string{"*"}, "Mesos roles to subscribe with, the preferred one first")
	fs.BoolVar(&c.Revocable, "mesos-revocable", false, "accept revocable cpus, for the pods that ask for them; "+
		"minions are then charged no cpus, because Mesos forbids a task with revocable cpus in an executor with other cpus")
	fs.StringVar(&c.User, "mesos-user", "root", "user that runs the minions on the agents")
	fs.StringVar(&c.Name, "mesos-framework-name", "k8sm", "name of the framework in Mesos")
	fs.StringVar(&c.WebUIURL, "mesos-webui-url", "", "URL of the framework's link in the Mesos web UI")
	fs.StringVar(&c.Principal, "mesos-principal", "", "principal to authenticate to the master with (HTTP basic)")
	fs.StringVar(&c.SecretFile, "mesos-secret-file", "", "file with the principal's secret")
	fs.StringVar(&c.CAFile, "mesos-ca-file", "", "PEM file with the CA of https masters; with it, masters found in ZooKeeper are also reached by https")
	fs.StringVar(&c.CertFile, "mesos-cert-file", "", "PEM file with the client certificate for masters that require one "+
		"(LIBPROCESS_SSL_REQUIRE_CLIENT_CERT). Certificate, key and CA are read again for each connection")
	fs.StringVar(&c.KeyFile, "mesos-key-file", "", "PEM file with the key of --mesos-cert-file")
	fs.BoolVar(&c.RegionAware, "mesos-region-aware", false,
		"accept offers from agents in other regions than the master's (--domain of a Mesos agent); pods then choose a region by the "+
			"node label topology.kubernetes.io/region")
	fs.DurationVar(&c.FailoverTimeout, "mesos-failover-timeout", 7*24*time.Hour,
		"how long Mesos keeps the pods' tasks running while no scheduler is connected")
	fs.DurationVar(&c.ConnectTimeout, "mesos-connect-timeout", 30*time.Second,
		"how long to try to reach a master at startup; a connection lost later is retried forever")
}

// Peers returns "host:port" of the masters, or of the ZooKeeper servers.
func (c *Config) Peers() []string {
	all := strings.Join(c.Masters, ",")
	if z, err := parseZooKeeper(all); strings.HasPrefix(all, zkScheme) && err == nil {
		return z.servers
	}
	var peers []string
	for _, master := range c.Masters {
		if at, err := endpoint(master); err == nil {
			if u, err := url.Parse(at); err == nil {
				peers = append(peers, u.Host)
			}
		}
	}
	return peers
}

// detector returns the Detector for Masters.
func (c *Config) detector() (Detector, error) {
	if all := strings.Join(c.Masters, ","); strings.HasPrefix(all, zkScheme) {
		z, err := parseZooKeeper(all)
		if err != nil {
			return nil, err
		}
		if c.CAFile != "" || c.CertFile != "" {
			z.scheme = "https"
		}
		return z, nil
	}
	var urls list
	for _, master := range c.Masters {
		url, err := endpoint(master)
		if err != nil {
			return nil, err
		}
		urls = append(urls, url)
	}
	if len(urls) == 0 {
		return nil, errors.New("no Mesos master is given: use --mesos-master=HOST:PORT, or zk://HOST:PORT/PATH")
	}
	return urls, nil
}

const schedulerPath = "/api/v1/scheduler" // of a master's v1 scheduler API

// endpoint returns the URL of a master's scheduler API.
func endpoint(master string) (string, error) {
	if strings.HasPrefix(master, zkScheme) {
		return "", errors.New("--mesos-master takes one zk:// URL and nothing beside it")
	}
	if !strings.Contains(master, "://") {
		master = "http://" + master
	}
	u, err := url.Parse(master)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return "", fmt.Errorf("--mesos-master %s is neither HOST:PORT nor an http or https URL", master)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "5050")
	}
	u.Path = schedulerPath
	return u.String(), nil
}

// checkRoles returns an error for roles that Mesos would refuse (validateRoles in src/master/validation.cpp).
func (c *Config) checkRoles() error {
	for i, role := range c.Roles {
		if role == "" || slices.Contains(c.Roles[:i], role) {
			return fmt.Errorf("--mesos-roles=%s has a role twice, or an empty one", strings.Join(c.Roles, ","))
		}
	}
	return nil
}

func (c *Config) secret() (string, error) {
	if (c.Principal == "") != (c.SecretFile == "") {
		return "", errors.New("--mesos-principal and --mesos-secret-file need each other")
	}
	if c.SecretFile == "" {
		return "", nil
	}
	secret, err := os.ReadFile(c.SecretFile)
	if err != nil {
		return "", fmt.Errorf("cannot read the secret of principal %s: %w", c.Principal, err)
	}
	return strings.TrimSpace(string(secret)), nil
}

func (c *Config) tls() (*mesoshttp.TLS, error) {
	t := &mesoshttp.TLS{
		Peer:     "Mesos master",
		Settings: mesoshttp.Settings{CA: "--mesos-ca-file", Cert: "--mesos-cert-file", Key: "--mesos-key-file"},
		CAFile:   c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile,
	}
	return t, t.Check()
}
