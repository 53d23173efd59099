package dns

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/template"
)

// corefile is what CoreDNS is told (https://coredns.io/manual/configuration/). With what a cluster's Corefile usually says it
// has in common how long answers hold and that answers about the cluster are not cached: they are in memory already.
type corefile struct {
	Listen     netip.AddrPort
	Domain     string // the cluster's
	Kubeconfig string // empty leaves the cluster out
	Upstreams  []netip.AddrPort
	Import     string
	Metrics    string // address; empty is none
	WebConfig  string // file that says who may see the metrics
}

var corefileTemplate = template.Must(template.New("Corefile").Parse(`.:{{.Listen.Port}} {
    bind {{.Listen.Addr}}
    errors {
        consolidate 1m ".*" warning show_first
    }
{{- if .Metrics}}
    prometheus {{.Metrics}} {
        tls {{printf "%q" .WebConfig}}
    }
{{- end}}
    loop
    loadbalance
    cache 30 {
        disable success {{.Domain}}
        disable denial {{.Domain}}
    }
{{- if .Kubeconfig}}
    kubernetes {{.Domain}} in-addr.arpa ip6.arpa {
        kubeconfig {{printf "%q" .Kubeconfig}}
        pods insecure
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
		panic(err) // the template is ours, and a buffer takes all
	}
	return text.Bytes()
}

// nameservers returns the servers that a resolv.conf (https://man7.org/linux/man-pages/man5/resolv.conf.5.html) names, in its
// order.
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

// maxUpstreams is how many CoreDNS takes.
const maxUpstreams = 15

// upstreams are the servers to ask: those given, else the machine's. A server that would ask this one again is an error if it
// was given, and left out, with a word why, if the machine names it.
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
