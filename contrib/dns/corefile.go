package dns

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/template"
)

// corefile is the input for CoreDNS's configuration (https://coredns.io/manual/configuration/). As in most clusters it sets the
// answers' time to live. It does not cache answers about the cluster, because they are in memory already.
type corefile struct {
	Listen     netip.AddrPort
	Domain     string // the cluster's
	Kubeconfig string // empty leaves the cluster out
	Upstreams  []netip.AddrPort
	Import     string
	Measured   bool // whether queries are counted
}

var corefileTemplate = template.Must(template.New("Corefile").Parse(`.:{{.Listen.Port}} {
    bind {{.Listen.Addr}}
    errors {
        consolidate 1m ".*" warning show_first
    }
{{- if .Measured}}
    measure
{{- end}}
    clients
    loop
    loadbalance
    cache 30 {
        disable success {{.Domain}}
        disable denial {{.Domain}}
    }
{{- if .Kubeconfig}}
    kubernetes {{.Domain}} in-addr.arpa ip6.arpa {
        kubeconfig {{printf "%q" .Kubeconfig}}
        pods verified
        ttl 30
        fallthrough in-addr.arpa ip6.arpa
    }
{{- end}}
{{- if .Import}}
    import {{printf "%q" .Import}}
{{- end}}
{{- if .Upstreams}}
    forward .{{range .Upstreams}} {{.}}{{end}} {
        policy sequential
        max_concurrent 1000
    }
{{- end}}
}
`))

func (c corefile) render() []byte {
	var text bytes.Buffer
	if err := corefileTemplate.Execute(&text, c); err != nil {
		panic(err) // cannot happen: the template is ours, and writes to a buffer do not fail
	}
	return text.Bytes()
}

// nameservers returns the servers in a resolv.conf (https://man7.org/linux/man-pages/man5/resolv.conf.5.html), in order.
func nameservers(resolvConf []byte) []netip.AddrPort {
	var servers []netip.AddrPort
	for line := range strings.Lines(string(resolvConf)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if ip, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(ip, 53))
		}
	}
	return servers
}

// maxUpstreams is CoreDNS's limit.
const maxUpstreams = 15

// upstreams returns the servers to query: the configured ones, or else the machine's. A configured server that would query this one
// again is an error. Such a server of the machine is left out, and left says why.
func (f Forwarding) upstreams(resolvConf []byte, own []netip.AddrPort) (servers []netip.AddrPort, left []string, err error) {
	if len(f.Upstreams) == 0 {
		for _, server := range nameservers(resolvConf) {
			if slices.Contains(own, server) {
				left = append(left, fmt.Sprintf("%s is the cluster's DNS itself", server.Addr()))
				continue
			}
			servers = append(servers, server)
		}
		return servers[:min(len(servers), maxUpstreams)], left, nil
	}
	if len(f.Upstreams) > maxUpstreams {
		return nil, nil, fmt.Errorf("cannot use %d upstream servers: give %d at most", len(f.Upstreams), maxUpstreams)
	}
	for _, text := range f.Upstreams {
		server, err := parseUpstream(text)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot use the upstream server %s: %w", text, err)
		}
		if slices.Contains(own, server) {
			return nil, nil, fmt.Errorf("cannot use the upstream server %s: it is the cluster's DNS itself, and would ask itself for ever", text)
		}
		servers = append(servers, server)
	}
	return servers, nil, nil
}
