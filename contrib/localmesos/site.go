package localmesos

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// refuseForeign refuses requests for another host and those of web pages of another one. A web page whose name resolves to this
// server's address (DNS rebinding) could otherwise use it through the browser of somebody who can reach it. A real Mesos has no such
// check.
func (p plan) refuseForeign(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !p.isOurs(r) {
			http.Error(w, fmt.Sprintf("This server is not %q: use its IP address, localhost or its --hostname, %s", r.Host, p.Hostname), http.StatusForbidden)
			return
		}
		for _, origin := range r.Header.Values("Origin") {
			if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
				http.Error(w, fmt.Sprintf("Requests of web pages of %s are refused: only those of this server's own pages are allowed", origin), http.StatusForbidden)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// isOurs reports whether the request's Host names this server. An agent with --ip=0.0.0.0 tells its executors that address.
func (p plan) isOurs(r *http.Request) bool {
	host := (&url.URL{Host: r.Host}).Hostname()
	if strings.EqualFold(host, "localhost") || strings.EqualFold(host, p.Hostname) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ip.IsLoopback() || ip.IsUnspecified() || ok && local.AddrPort().Addr().Unmap() == ip
}
