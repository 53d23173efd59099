package mesos

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	log "github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/resolve"
)

// lookupTimeout bounds the search for the address of a master that a redirect names.
const lookupTimeout = 5 * time.Second

// target returns the endpoint that a redirect leads to; "" if its Location names none. The principal's secret follows to a candidate
// only, and never from https to http: whoever answers in a master's place could redirect to itself.
func (c *connection) target(ctx context.Context, location string) (string, error) {
	to := leaderOf(c.endpoint, location)
	if to == "" || c.master.secret == "" {
		return to, nil
	}
	for _, known := range c.known {
		downgrade := strings.HasPrefix(c.endpoint, "https:") && !strings.HasPrefix(known, "https:")
		if !downgrade && sameServer(ctx, known, to) {
			return known, nil
		}
	}
	master := strings.TrimSuffix(to, schedulerPath)
	if _, elected := c.master.detector.(*zooKeeper); elected {
		return "", fmt.Errorf("the Mesos master at %s redirects to %s, which does not get the secret of --mesos-secret-file: "+
			"ZooKeeper (--mesos-master) does not name it as the leader", c.endpoint, master)
	}
	return "", fmt.Errorf("the Mesos master at %s redirects to %s, which does not get the secret of --mesos-secret-file: "+
		"if it is one of your masters, list it in --mesos-master too", c.endpoint, master)
}

// leaderOf returns the endpoint at the host of a redirect's Location ("//host:port"); "" if there is none.
func leaderOf(endpoint, location string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	to, err := url.Parse(location)
	if err != nil || to.Host == "" {
		return ""
	}
	u.Host = to.Host
	if _, err := url.Parse(u.String()); err != nil { // a host such as "::" is taken above only
		return ""
	}
	return u.String()
}

// sameServer reports whether two endpoints have the same port, and the same host or an address in common: masters redirect to what
// they believe to be their name, while --mesos-master may have an address.
func sameServer(ctx context.Context, a, b string) bool {
	one, err := url.Parse(a)
	if err != nil {
		return false
	}
	other, err := url.Parse(b)
	if err != nil || one.Port() != other.Port() {
		return false
	}
	if strings.EqualFold(one.Hostname(), other.Hostname()) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	ours := resolve.Hosts(ctx, a)
	return slices.ContainsFunc(resolve.Hosts(ctx, b), func(address netip.Addr) bool { return slices.Contains(ours, address) })
}

// warnOfPlainHTTP warns, once, that the secret goes through the network unencrypted.
func (m *Master) warnOfPlainHTTP(master *url.URL) {
	if master.Scheme == "https" || isHere(master.Hostname()) {
		return
	}
	m.plain.Do(func() {
		log.WithField("master", master.Host).Warn("the secret of --mesos-secret-file goes to the Mesos master unencrypted: everybody on the way can read " +
			"and use it. Give the master LIBPROCESS_SSL_ENABLED, and the scheduler --mesos-master=https://HOST:PORT, or --mesos-ca-file with zk://")
	})
}

// isHere reports whether the host is this machine, so that nothing goes through a network.
func isHere(host string) bool {
	ip := net.ParseIP(host)
	if host == "localhost" || ip.IsLoopback() {
		return true
	}
	own, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(own, func(a net.Addr) bool {
		prefix, ok := a.(*net.IPNet)
		return ok && prefix.IP.Equal(ip)
	})
}
