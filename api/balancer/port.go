package balancer

import (
	"context"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Port is a port on loopback that leads to whichever API server answers, with a kubeconfig for it: for libraries that read one. Run,
// Follow and ServePort keep it.
type Port struct {
	*Balancer
	// Config is for other clients. They connect without the port.
	Config *rest.Config

	listener net.Listener
	file     *os.File // has the kubeconfig, and is in no directory: it may have a key
}

// OpenPort opens a port for the user and the cluster of a kubeconfig, which must suit: see Suits. The caller calls Close at the end.
func OpenPort(kubeconfig string) (*Port, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("cannot read how to reach the API server: %w", err)
	}
	b, err := Use(config)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot open a port that leads to the API servers: %w", err)
	}
	p := &Port{Balancer: b, Config: config, listener: l}
	if err := p.write(kubeconfig); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("cannot make a kubeconfig that leads to all API servers: %w", err)
	}
	return p, nil
}

// write makes the kubeconfig. It names the same files of certificates as the original one: clients read them again when they change.
func (p *Port) write(kubeconfig string) error {
	c, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		return err
	}
	if err := clientcmd.ResolveLocalPaths(c); err != nil {
		return err
	}
	if err := clientcmdapi.MinifyConfig(c); err != nil {
		return err
	}
	for _, cluster := range c.Clusters { // there is one now
		cluster.Server, cluster.TLSServerName = "https://"+p.listener.Addr().String(), ServerName
	}
	data, err := clientcmd.Write(*c)
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("kubeconfig", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	p.file = os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd))
	if _, err := p.file.Write(data); err != nil {
		_ = p.file.Close()
		return err
	}
	return nil
}

// Kubeconfig is the path of a kubeconfig that leads to the port. It is good in this process, until Close.
func (p *Port) Kubeconfig() string { return p.file.Name() }

// ServePort serves the port until ctx ends, as Serve does.
func (p *Port) ServePort(ctx context.Context) error { return p.Serve(ctx, p.listener) }

// Close closes the kubeconfig, and the port if nothing serves it.
func (p *Port) Close() {
	_ = p.listener.Close() // who serves it has closed it
	_ = p.file.Close()
}
