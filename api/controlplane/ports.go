package controlplane

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/heldport"
	"github.com/k8sm/k8sm/api/statedir"
)

// ports are taken before anything starts, so that a port in use leaves nothing half started.
type ports struct {
	api  net.Listener   // handed on to the API server
	etcd int            // 0 with an existing etcd
	held *heldport.Port // etcd's, if it may be any
	// inUse says that the API server has not stopped, and still accepts on its port.
	inUse bool
}

func reserve(c Config) (*ports, error) {
	p := &ports{}
	if c.embeds() {
		if err := p.reserveEtcd(c.EtcdPort); err != nil {
			return nil, err
		}
	}
	api, err := listen(c.BindAddress, c.SecurePort, "--secure-port")
	if err != nil {
		p.releaseEtcd()
		return nil, err
	}
	p.api = api
	return p, nil
}

// reserveEtcd is for an etcd that does not accept a listener.
func (p *ports) reserveEtcd(port int) (err error) {
	if port == 0 {
		if p.held, err = heldport.Hold(netip.AddrFrom4([4]byte{127, 0, 0, 1})); err != nil {
			return err
		}
		p.etcd = p.held.Number
		return nil
	}
	l, err := listen("127.0.0.1", port, "--etcd-port") // which only checks that the port is free
	if err != nil {
		return err
	}
	if p.etcd = port; l.Close() != nil {
		return fmt.Errorf("cannot release etcd's port %d", port)
	}
	return nil
}

// release closes the API server's port if the API server has not taken it over.
func (p *ports) release() {
	if !p.inUse { // else kube-apiserver would panic
		_ = p.api.Close()
	}
	p.releaseEtcd()
}

func (p *ports) releaseEtcd() {
	if p.held != nil {
		p.held.Close()
	}
}

func listen(address string, port int, flag string) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("cannot listen on %s: %w; stop what uses it, or set %s",
			net.JoinHostPort(address, strconv.Itoa(port)), syscall.EADDRINUSE, flag)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	return l, nil
}

// pkiSpec lists all names of the API server: for clients outside, for nodes, and for pods.
func (c Config) pkiSpec(p *ports) func(now time.Time) statedir.Spec {
	names := []string{"localhost", "127.0.0.1", c.Advertised(),
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + c.ClusterDomain}
	if ip := net.ParseIP(c.BindAddress); !ip.IsUnspecified() {
		names = append(names, c.BindAddress)
	}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	names = append(append(names, c.ServingNames...), c.Masters.names()...)
	spec := statedir.Spec{
		ServerURL:   c.serverURL(p),
		PublicURL:   c.Masters.publicURL(p.api.Addr().(*net.TCPAddr).Port),
		ServerNames: append(names, firstAddresses(c.ServiceCIDR)...),
		EtcdNames:   []string{"localhost", "127.0.0.1"},
		Lives:       c.Lives,
	}
	return func(now time.Time) statedir.Spec {
		spec.Now = now
		return spec
	}
}

// firstAddresses returns the addresses of the service "kubernetes": the first of each range.
func firstAddresses(ranges string) (names []string) {
	list, _ := api.ParseRanges(ranges) // Validate has checked it
	for _, prefix := range list {
		names = append(names, prefix.Addr().Next().String())
	}
	return names
}
