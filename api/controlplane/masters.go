package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api/join"
)

// Masters configures a control plane that is one of several on one etcd.
type Masters struct {
	// Join is the URL of the API server that gives this one the cluster's authorities, once; TokenFile has the token for it.
	Join, TokenFile string
	// Endpoint is "host" or "host:port" of all API servers together, for people's kubeconfigs.
	Endpoint string
	// Names are further host names and IP addresses in the API server's certificate.
	Names []string
	// ChangeSettings changes the cluster's settings to those here.
	ChangeSettings bool
}

func (m *Masters) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&m.Join, "join", "", "`URL` of another control plane's API server, from which this one gets the cluster's certificate authorities at its first start")
	fs.StringVar(&m.TokenFile, "token-file", "", "with --join: `file` with a token of km pki token")
	fs.StringVar(&m.Endpoint, "control-plane-endpoint", "",
		"`HOST[:PORT]` of all API servers together, such as a name with all their addresses, for admin.kubeconfig and the certificate (default: this one alone)")
	fs.StringSliceVar(&m.Names, "tls-san", nil, "more host `NAME,...` or IP addresses in the API server's certificate, which is made anew when they change")
	fs.BoolVar(&m.ChangeSettings, "change-settings", false,
		"change the cluster's settings to the flags given here; without it, a control plane whose flags differ from those of the others that run does not start")
}

func (m Masters) check() error {
	if (m.Join == "") != (m.TokenFile == "") {
		return errors.New("give --join and --token-file, or neither")
	}
	for _, name := range append([]string{m.endpointHost()}, m.Names...) {
		if name != "" && net.ParseIP(name) == nil && len(validation.IsDNS1123Subdomain(name)) > 0 {
			return fmt.Errorf("cannot use %q in --tls-san or --control-plane-endpoint: it is neither an IP address nor a host name in lower case", name)
		}
	}
	if m.Endpoint != "" {
		if _, port, err := net.SplitHostPort(m.Endpoint); err == nil {
			if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
				return fmt.Errorf("cannot use --control-plane-endpoint=%s: %q is not a port", m.Endpoint, port)
			}
		}
	}
	return nil
}

// endpointHost returns the endpoint without its port.
func (m Masters) endpointHost() string {
	if host, _, err := net.SplitHostPort(m.Endpoint); err == nil {
		return host
	}
	return m.Endpoint
}

// names are the names in the certificate that the operator asks for.
func (m Masters) names() []string {
	if m.Endpoint == "" {
		return m.Names
	}
	return append([]string{m.endpointHost()}, m.Names...)
}

// publicURL returns the URL for people's kubeconfigs, or "" for that of this API server alone. port is this API server's.
func (m Masters) publicURL(port int) string {
	switch {
	case m.Endpoint == "":
		return ""
	case m.endpointHost() == m.Endpoint:
		return "https://" + net.JoinHostPort(m.Endpoint, strconv.Itoa(port))
	}
	return "https://" + m.Endpoint
}

// joinOthers gets the cluster's authorities from another control plane, unless they are here: the flags may stay.
func (c Config) joinOthers(ctx context.Context) error {
	if c.Masters.Join == "" {
		return nil
	}
	if c.StateDir.HasAuthorities() {
		logrus.Debug("this control plane has its authorities: --join is not needed any more")
		return nil
	}
	token, err := join.ReadToken(c.Masters.TokenFile)
	if err != nil {
		return err
	}
	if err := join.Fetch(ctx, c.Masters.Join, token, c.StateDir); err != nil {
		return err
	}
	logrus.WithField("server", c.Masters.Join).Info("joined: this control plane has the cluster's authorities")
	return nil
}

// tidyTokens deletes tokens for control planes whose time is over, until ctx ends.
func tidyTokens(ctx context.Context, client kubernetes.Interface) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		if err := join.Tidy(ctx, client, time.Now()); err != nil && ctx.Err() == nil {
			logrus.WithError(err).Warn("cannot delete old tokens of control planes; trying again")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// ownMember returns the URLs of the etcd member on this machine, or all if none is. An API server sends its requests to all members in
// turn, and waits half a minute for one that hangs. With the member beside it alone, both are well or not, and clients leave an API
// server that is not ready.
func ownMember(endpoints []string, machine []net.Addr) (own []string) {
	for _, endpoint := range endpoints {
		u, err := url.Parse(endpoint)
		if err != nil {
			continue
		}
		ip := net.ParseIP(u.Hostname())
		if slices.ContainsFunc(machine, func(a net.Addr) bool { n, ok := a.(*net.IPNet); return ok && n.IP.Equal(ip) }) {
			own = append(own, endpoint)
		}
	}
	if len(own) == 0 {
		return endpoints
	}
	return own
}
