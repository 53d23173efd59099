package dns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/contrib/membership"
	"github.com/k8sm/k8sm/minion/supervise"
)

// Replicas are servers on one machine, each a child process with its own port. AddFlags sets the defaults.
type Replicas struct {
	// Count is the number of servers; 0 leaves the DNS to servers elsewhere.
	Count int
	// Address is the listen address of all servers, at Port and the ports after it.
	Address string
	Port    int
	Forwarding
	Access
	// MetricsPort is the port on loopback for the metrics of the first server; the others have the ports after it. 0 serves none.
	MetricsPort int
	// CertFile, KeyFile and ClientCAFile are for the metrics.
	CertFile, KeyFile, ClientCAFile string

	// Kubeconfig is a kubeconfig file for the API server.
	Kubeconfig string
	membership.Log
}

// AddFlags adds a control plane's flags for its DNS, of which count servers run by default. Kubeconfig, LogLevel and LogFormat have none.
func (r *Replicas) AddFlags(fs *pflag.FlagSet, count int) {
	fs.IntVar(&r.Count, "dns-replicas", count, "how many DNS servers of the cluster run beside the API server; use 0 if km dns runs them elsewhere")
	fs.StringVar(&r.Address, "dns-address", "", "IP address the DNS servers listen on, which nodes and pods must reach (default: the API server's)")
	fs.IntVar(&r.Port, "dns-port", DefaultPort, "UDP and TCP port of the first DNS server; the others use the ports after it")
	fs.IntVar(&r.MetricsPort, "dns-metrics-port", DefaultMetricsPort,
		"port on 127.0.0.1 where the first DNS server serves Prometheus metrics, by HTTPS, to clients with a certificate of the cluster; the others use the ports after it. 0 serves none")
	r.Forwarding.addFlags(fs, "dns-")
	r.Access.addFlags(fs, "dns-")
}

// MetricsAddresses are where the servers serve their metrics; none if they don't.
func (r Replicas) MetricsAddresses() (addresses []string) {
	for i := range r.Count {
		if r.MetricsPort != 0 {
			addresses = append(addresses, loopback(r.MetricsPort+i))
		}
	}
	return addresses
}

// Validate checks the settings. Errors name the flags.
func (r Replicas) Validate() error {
	if r.Count < 0 {
		return fmt.Errorf("cannot use --dns-replicas=%d: give a number, 0 for none", r.Count)
	}
	if r.Count == 0 {
		return nil
	}
	if r.Port < 1 || r.Port+r.Count-1 > 65535 {
		return fmt.Errorf("cannot use --dns-port=%d for %d servers: give a port from 1 to %d", r.Port, r.Count, 65536-r.Count)
	}
	if err := validateAddress(r.Address); err != nil {
		return fmt.Errorf("cannot use --dns-address=%s: %w", r.Address, err)
	}
	if r.MetricsPort < 0 || r.MetricsPort+r.Count-1 > 65535 {
		return fmt.Errorf("cannot use --dns-metrics-port=%d for %d servers: give a port from 1 to %d, or 0 for none", r.MetricsPort, r.Count, 65536-r.Count)
	}
	return errors.Join(r.Forwarding.validate("dns-"), r.Access.validate("dns-"))
}

// Check finds errors before there is a cluster. It checks CoreDNS's configuration in a process of its own. The machine need not have
// the address yet.
func (r Replicas) Check(ctx context.Context) error {
	if err := r.Validate(); err != nil {
		return err
	}
	if err := r.free(); err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
		return err
	}
	if r.Count == 0 || r.Import == "" {
		return nil
	}
	var output bytes.Buffer
	check := supervise.Child{Args: []string{"dns", "--check", "--import=" + r.Import}, Output: &output}
	if err := check.Run(ctx); err != nil {
		text := strings.TrimSpace(output.String())
		return errors.Join(ctx.Err(), errors.New(strings.TrimPrefix(text[strings.LastIndex(text, "\n")+1:], "km: ")))
	}
	return nil
}

// free checks that the servers' ports are free.
func (r Replicas) free() error {
	for i := range r.Count {
		address := netip.AddrPortFrom(netip.MustParseAddr(r.Address), uint16(r.Port+i))
		if err := free(address); err != nil {
			return fmt.Errorf("cannot use %s for the cluster's DNS: %w; stop what uses it, or give another --dns-port or --dns-address", address, err)
		}
		if r.MetricsPort == 0 {
			continue
		}
		listener, err := net.Listen("tcp", loopback(r.MetricsPort+i))
		if err != nil {
			return fmt.Errorf("cannot serve metrics of the cluster's DNS: %w; stop what uses the port, or give another --dns-metrics-port", err)
		}
		listener.Close()
	}
	return nil
}

// Run runs the servers until ctx ends, and restarts each that exits or does not answer. It calls ready once, when the first one is
// in the service. Their logs go to output. It returns an error if none was started.
func (r Replicas) Run(ctx context.Context, output io.Writer, ready func()) error {
	if err := r.free(); err != nil {
		return err
	}
	var parts []*supervise.Part
	for i := range r.Count {
		parts = append(parts, supervise.Start(context.WithoutCancel(ctx), "the cluster's DNS server "+strconv.Itoa(i+1), r.child(i, output).Run))
	}
	if r.Count > 0 && r.awaitReady(ctx) == nil {
		ready()
	}
	<-ctx.Done()
	stopped := make(chan struct{})
	for _, part := range parts {
		go func() { part.Stop(); stopped <- struct{}{} }()
	}
	for range parts {
		<-stopped
	}
	return nil
}

// child is a server as a process.
func (r Replicas) child(i int, output io.Writer) supervise.Child {
	port := r.Port + i
	args := []string{"dns", "--kubeconfig=" + r.Kubeconfig, "--address=" + r.Address, "--port=" + strconv.Itoa(port)}
	args = append(args, r.Flags()...)
	if r.MetricsPort != 0 {
		args = append(args, "--metrics-address="+loopback(r.MetricsPort+i), "--tls-cert-file="+r.CertFile, "--tls-private-key-file="+r.KeyFile, "--client-ca-file="+r.ClientCAFile)
	}
	if len(r.Upstreams) > 0 {
		args = append(args, "--upstream="+strings.Join(r.Upstreams, ","))
	}
	if r.Import != "" {
		args = append(args, "--import="+r.Import)
	}
	if len(r.AllowedNetworks) > 0 {
		args = append(args, "--allowed-networks="+strings.Join(r.AllowedNetworks, ","))
	}
	return supervise.Child{
		Args: args, Output: output, Grace: apiTimeout + lameDuck,
		Health: &supervise.Health{
			Probe: func(ctx context.Context) error { return probe(ctx, port, "/health") }, Every: supervise.ProbeEvery,
		},
	}
}

// awaitReady waits until one of the servers is in the service, or ctx ends.
func (r Replicas) awaitReady(ctx context.Context) error {
	for {
		for i := range r.Count {
			if probe(ctx, r.Port+i, "/ready") == nil {
				return nil
			}
		}
		if err := supervise.Sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// probe queries a health endpoint of a server on this machine.
func probe(ctx context.Context, port int, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(port)+path, nil)
	if err != nil {
		return err
	}
	request.Close = true // a restarted process listens on the same port
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 500))
		return fmt.Errorf("%s: %s %s", path, response.Status, strings.TrimSpace(string(body)))
	}
	return nil
}
