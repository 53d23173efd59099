package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/certfile"
	"github.com/k8sm/k8sm/api/connlimit"
	"github.com/k8sm/k8sm/api/statedir"
)

const (
	headerTimeout  = 5 * time.Second  // for a client to send the header of a request
	requestTimeout = 30 * time.Second // for it to send all of it
	sendTimeout    = 30 * time.Second // for it to take what it is sent at once, such as an event
	maxHeader      = 64 << 10
	maxBody        = 3 << 20 // as kube-apiserver
	maxObject      = 3 << 19 // as etcd
	maxDecoding    = 2 << 20 // bytes of objects that are read at once: each may become 250 in memory
	smallObject    = 64 << 10

	maxRequests = 128 // that are worked on at once; watches and lists count apart
	maxLists    = 16  // that are: each may be long
	spareConns  = 512 // connections beside those of watches
)

// Server serves the APIs. It has taken its port; it serves while Run runs.
type Server struct {
	cfg      Config
	listener net.Listener
}

// Listen takes the port, so that a port in use is an error before anything starts. The caller must call Run or Close.
func Listen(c Config) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	l, err := c.listen()
	if err != nil {
		return nil, err
	}
	return &Server{cfg: c, listener: l}, nil
}

// Addr returns the address at which the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close frees the port. It is for a Server that never runs.
func (s *Server) Close() error { return s.listener.Close() }

// Run serves until ctx ends, and then returns nil. admin is how to reach the API server as the administrator. The control plane must have
// written its certificates, and should be ready. Run calls ready when it serves and the record of its address is written; when it returns,
// the record is gone.
func (s *Server) Run(ctx context.Context, admin *rest.Config, ready func()) (err error) {
	defer s.listener.Close()
	who, err := newCallers(s.cfg.StateDir, admin, s.cfg.Insecure)
	if err != nil {
		return err
	}
	secured, err := tlsConfig(s.cfg.StateDir)
	if err != nil {
		return err
	}
	g := newGateway(who, s.cfg.Names(), s.cfg.MaxWatches)
	if err := s.cfg.StateDir.WriteGateway(statedir.Gateway{PID: os.Getpid(), Address: s.reachable(), Insecure: s.cfg.Insecure}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.cfg.StateDir.RemoveGateway()) }()
	administrator, err := who.caller("administrator", "", who.admin, true)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return followFirstPorts(ctx, administrator.core) })
	group.Go(func() error { return serve(ctx, s.bounded(), secured, g) })
	log := logrus.WithField("address", s.Addr())
	if s.cfg.Insecure {
		log.Warn("serving v1beta1; every program on this machine is the cluster's administrator there without credentials (--v1beta1-insecure)")
	} else {
		log.Info("serving v1beta1")
	}
	ready()
	return group.Wait()
}

// reachable is an address at which this machine reaches the server by a name that its certificate has.
func (s *Server) reachable() string {
	_, port, _ := net.SplitHostPort(s.Addr())
	if names := s.cfg.Names(); len(names) > 0 {
		return net.JoinHostPort(names[0], port)
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// bounded limits the connections: each watch has one. On loopback all clients have the same address, so none has a share.
func (s *Server) bounded() net.Listener {
	total := s.cfg.MaxWatches + spareConns
	share := total
	if !isLoopback(s.cfg.host()) {
		share = max(total/4, spareConns/4)
	}
	return connlimit.Listener(s.listener, total, share)
}

// tlsConfig has the API server's certificate: it is the same API in the words of 2014. Callers verifies the certificates of clients.
func tlsConfig(dir statedir.Dir) (*tls.Config, error) {
	suites, err := cliflag.TLSCipherSuites(api.CipherSuites())
	if err != nil {
		return nil, fmt.Errorf("cannot serve v1beta1: %w", err)
	}
	secured, err := certfile.Server(&tls.Config{
		MinVersion: tls.VersionTLS12, CipherSuites: suites, ClientAuth: tls.RequestClientCert,
		NextProtos: []string{"http/1.1"}, // a connection has one request at a time, so that what bounds connections bounds requests
	}, certfile.NewPair(dir.Pair(statedir.APIServer)), "")
	if err != nil {
		return nil, fmt.Errorf("cannot serve v1beta1: %w", err)
	}
	return secured, nil
}

// serve serves HTTP and HTTPS until ctx ends, and then returns nil.
func serve(ctx context.Context, l net.Listener, secured *tls.Config, handler http.Handler) error {
	problems := logrus.StandardLogger().WriterLevel(logrus.DebugLevel) // failed handshakes are the clients' problem
	defer problems.Close()
	server := &http.Server{
		Handler: connlimit.Requests(handler), ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout,
		WriteTimeout: maxWait + sendTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: maxHeader,
		ErrorLog: stdlog.New(problems, "", 0), BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = server.Close() // clients can ask again
	})
	err := server.Serve(sniff(l, secured, headerTimeout))
	if stop() { // ctx has not ended
		return fmt.Errorf("cannot serve v1beta1 any more: %w", err)
	}
	<-stopped
	return nil
}
