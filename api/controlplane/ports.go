package controlplane

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
)

// ports are taken before anything starts, so that a used port leaves nothing half started.
type ports struct {
	api  net.Listener // handed on to the API server
	etcd int          // 0 with an existing etcd
}

func reserve(c Config) (*ports, error) {
	p := &ports{}
	if len(c.EtcdServers) == 0 {
		// etcd takes no listener from us, so this one only finds out that the port is free.
		l, err := listen("127.0.0.1", c.EtcdPort, "--etcd-port")
		if err != nil {
			return nil, err
		}
		p.etcd = l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			return nil, fmt.Errorf("cannot free etcd's port again: %w", err)
		}
	}
	api, err := listen(c.BindAddress, c.SecurePort, "--secure-port")
	if err != nil {
		return nil, err
	}
	p.api = api
	return p, nil
}

// release gives back the API server's port in case the API server never came to own it.
func (p *ports) release() { _ = p.api.Close() }

func listen(address string, port int, flag string) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("cannot listen on %s: %w; stop what uses it or give %s",
			net.JoinHostPort(address, strconv.Itoa(port)), syscall.EADDRINUSE, flag)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	return l, nil
}

// pkiSpec names all by which the API server may be called: by clients outside, by nodes, and by pods.
func (c Config) pkiSpec(p *ports, now time.Time) statedir.Spec {
	names := []string{"localhost", "127.0.0.1", c.Advertised(),
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + c.ClusterDomain}
	if ip := net.ParseIP(c.BindAddress); !ip.IsUnspecified() {
		names = append(names, c.BindAddress)
	}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	return statedir.Spec{
		Now:         now,
		ServerURL:   c.serverURL(p),
		ServerNames: append(names, firstAddresses(c.ServiceCIDR)...),
		EtcdNames:   []string{"localhost", "127.0.0.1"},
	}
}

// firstAddresses are those in the ranges that the service "kubernetes" always has, one of each family at most.
func firstAddresses(ranges string) (names []string) {
	list, _ := api.ParseRanges(ranges) // Validate has read it
	for _, prefix := range list {
		names = append(names, prefix.Addr().Next().String())
	}
	return names
}
