package mesos

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/api/mesoshttp"
)

// Config says how to reach Mesos, and as which framework.
type Config struct {
	// Masters are HOST:PORT addresses or http(s) URLs of masters, each of which redirects to the leading one. Or they are one URL
	// zk://[USER:PASSWORD@]HOST:PORT,.../PATH of the ZooKeeper that knows the leading one. Or they are file:///PATH of a file that has
	// either, as Mesos' own flags take it. Each may be split at its commas.
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
	// Not a slice, whose errors would show a password.
	fs.StringArrayVar(&c.Masters, "mesos-master", []string{"127.0.0.1:5050"},
		"Mesos `masters` as HOST:PORT[,HOST:PORT] or http(s) URLs, any of which redirects to the leader; or zk://[USER:PASSWORD@]HOST:PORT[,HOST:PORT]/PATH "+
			"to find the leader in ZooKeeper; or file:///PATH of a file that contains one of these, which keeps a password out of the command line")
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

const fileScheme = "file://"

// masters returns Masters, or what their file contains, split at the commas.
func (c *Config) masters() ([]string, error) {
	all := strings.Join(c.Masters, ",")
	file, given := strings.CutPrefix(all, fileScheme)
	if !given {
		return strings.Split(all, ","), nil
	}
	if !filepath.IsAbs(file) {
		return nil, fmt.Errorf("cannot use --mesos-master=%s: give the absolute path of a file, as file:///PATH", all)
	}
	text, err := readSecret(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the Mesos masters (--mesos-master): %w", err)
	}
	return strings.Split(text, ","), nil
}

// Peers returns "host:port" of the masters, or of the ZooKeeper servers.
func (c *Config) Peers() []string {
	found, err := c.detector()
	if err != nil {
		return nil
	}
	switch found := found.(type) {
	case *zooKeeper:
		return found.servers
	case list:
		var peers []string
		for _, master := range found {
			if u, err := url.Parse(master); err == nil {
				peers = append(peers, u.Host)
			}
		}
		return peers
	}
	return nil
}

// detector returns the Detector for Masters.
func (c *Config) detector() (Detector, error) {
	masters, err := c.masters()
	if err != nil {
		return nil, err
	}
	if all := strings.Join(masters, ","); strings.HasPrefix(all, zkScheme) {
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
	for _, master := range masters {
		url, err := endpoint(master)
		if err != nil {
			return nil, err
		}
		urls = append(urls, url)
	}
	return urls, nil
}

const schedulerPath = "/api/v1/scheduler" // of a master's v1 scheduler API

// endpoint returns the URL of a master's scheduler API.
func endpoint(master string) (string, error) {
	switch {
	case master == "":
		return "", errors.New("no Mesos master is given, or one of them is empty: use --mesos-master=HOST:PORT, or zk://HOST:PORT/PATH")
	case strings.HasPrefix(master, zkScheme):
		return "", errors.New("--mesos-master takes one zk:// URL and nothing beside it")
	case strings.HasPrefix(master, fileScheme):
		return "", errors.New("--mesos-master takes one file:// URL and nothing beside it")
	case strings.Contains(master, "@"):
		return "", errors.New("--mesos-master takes no password for a master: give --mesos-principal and --mesos-secret-file")
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
	secret, err := readSecret(c.SecretFile)
	if err != nil {
		return "", fmt.Errorf("cannot read the secret of principal %s (--mesos-secret-file): %w", c.Principal, err)
	}
	return secret, nil
}

// readSecret returns the text in a file, without the space around it.
func readSecret(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(data))
	if text == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	return text, nil
}

func (c *Config) tls() (*mesoshttp.TLS, error) {
	t := &mesoshttp.TLS{
		Peer:     "Mesos master",
		Settings: mesoshttp.Settings{CA: "--mesos-ca-file", Cert: "--mesos-cert-file", Key: "--mesos-key-file"},
		CAFile:   c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile,
	}
	return t, t.Check()
}
