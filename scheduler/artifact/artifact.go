// Package artifact serves the running km program to Mesos agents. Their fetcher puts it into the sandboxes of the minions
// (https://mesos.apache.org/documentation/latest/fetcher/).
//
//	/km/SHA256/km.tar.gz   an archive with the program as its only file, by GET and HEAD, whole or in ranges
//
// The hash in the path is that of the program. There is nothing else to get. It is plain HTTP without authentication, because a
// fetcher knows neither the cluster's authority nor a secret. The program is public, and the executor's command checks its hash,
// which reaches the agents through Mesos.
//
// A fetcher unpacks a .tar.gz (extract in Mesos's src/launcher/fetcher.cpp), keeps only the archive in its cache, and leaves only
// the program in the sandbox. So downloads and caches are a third of the program's size.
//
// Start reading at Listen. The package must never import k8s.io/kubernetes, nor the scheduler.
package artifact

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	log "github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	"golang.org/x/crypto/blake2b"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/k8sm/k8sm/api/connlimit"
)

// DefaultPort is the default port of --artifact-address.
const DefaultPort = "10269"

// Config says where to serve.
type Config struct {
	// Address is "host:port". Without a host the server listens on all addresses, and agents get the one from which this machine
	// reaches the Mesos master. Port 0 is any free port.
	Address string
	// Program is the file to serve. The default is this process's own program, even if its file has been replaced since. Tests
	// serve other files.
	Program string
	// Rate is how many bytes per second all downloads together may take, such as "50M"; "" for no limit.
	Rate string
}

// AddFlags registers the flags; the values that c holds are overwritten by the defaults.
func (c *Config) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&c.Address, "artifact-address", ":"+DefaultPort,
		"without --km-path: `host:port` that serves km to the Mesos agents' fetchers (plain HTTP; agents check its hash). "+
			"Without a host, it listens on all addresses, and agents use the one from which this machine reaches the Mesos master")
	fs.StringVar(&c.Rate, "artifact-rate", "",
		"how many `bytes` per second agents' downloads of km may take together, such as 50M (default: no limit)")
}

// Validate checks the rate. The error names the flag.
func (c *Config) Validate() error {
	_, err := parseRate(c.Rate)
	return err
}

// Server serves one program. Its methods may be called concurrently.
type Server struct {
	listener net.Listener
	program  *os.File
	size     int64
	sum      string
	blake2b  string
	host     string        // in the URL for agents
	limit    *rate.Limiter // of all downloads; nil for none

	// packed is closed when archive is set. Requests wait for it.
	packed  chan struct{}
	archive *archive
}

// Listen takes the port and reads the program. peers are "host:port" of Mesos masters, or of the ZooKeeper servers that know them;
// Listen sends them nothing. The caller must call Run or Close.
func Listen(c Config, peers []string) (*Server, error) {
	host, _, err := net.SplitHostPort(c.Address)
	if err != nil {
		return nil, fmt.Errorf("--artifact-address=%s is not host:port: %w", c.Address, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		if host, err = localAddress(peers); err != nil {
			return nil, fmt.Errorf("cannot tell at which address agents reach km: %w; give --artifact-address=HOST:PORT", err)
		}
	}
	limit, err := parseRate(c.Rate)
	if err != nil {
		return nil, err
	}
	program, err := os.Open(cmp.Or(c.Program, "/proc/self/exe"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the running program to serve it to agents: %w; install it there and give --km-path", err)
	}
	s := &Server{program: program, host: host, limit: limit, packed: make(chan struct{})}
	if err := s.read(); err != nil {
		program.Close()
		return nil, err
	}
	if s.listener, err = net.Listen("tcp", c.Address); err != nil {
		program.Close()
		if errors.Is(err, syscall.EADDRINUSE) {
			err = syscall.EADDRINUSE
		}
		return nil, fmt.Errorf("cannot serve km to agents on %s: %w; give another --artifact-address, or --km-path of a km that is installed on the agents",
			c.Address, err)
	}
	return s, nil
}

// localAddress returns the address from which this machine reaches the first of the peers that it has a route to. The kernel knows
// that; no packet is sent.
func localAddress(peers []string) (string, error) {
	err := errors.New("no Mesos master is given by its address")
	for _, peer := range peers {
		var conn net.Conn
		if conn, err = net.Dial("udp", peer); err == nil {
			defer conn.Close()
			return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
		}
	}
	return "", err
}

func (s *Server) read() (err error) {
	sum := sha256.New()
	quick, err := blake2b.New512(nil)
	if err != nil {
		return fmt.Errorf("cannot hash the running program: %w", err)
	}
	if s.size, err = io.Copy(io.MultiWriter(sum, quick), s.program); err != nil {
		return fmt.Errorf("cannot read the running program to serve it to agents: %w", err)
	}
	s.sum, s.blake2b = hex.EncodeToString(sum.Sum(nil)), hex.EncodeToString(quick.Sum(nil))
	return nil
}

// SHA256 is the hash of the program, in hexadecimal.
func (s *Server) SHA256() string { return s.sum }

// BLAKE2b is the program's BLAKE2b-512, in hexadecimal.
func (s *Server) BLAKE2b() string { return s.blake2b }

// URL is the archive's, for agents.
func (s *Server) URL() string {
	_, port, _ := net.SplitHostPort(s.listener.Addr().String())
	return "http://" + net.JoinHostPort(s.host, port) + s.path()
}

func (s *Server) path() string { return "/km/" + s.sum + "/" + ArchiveName }

// Close frees the port and the file. It is for a Server that never runs.
func (s *Server) Close() error { return errors.Join(s.listener.Close(), s.program.Close()) }

// Run serves until ctx ends, and then returns nil. It packs the program first, while requests wait.
func (s *Server) Run(ctx context.Context) error {
	defer s.program.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.pack(ctx) })
	group.Go(func() error { return s.serve(ctx) })
	err := group.Wait()
	if s.archive != nil {
		err = errors.Join(err, s.archive.file.Close())
	}
	return err
}

// pack makes the archive.
func (s *Server) pack(ctx context.Context) error {
	began := time.Now()
	archive, err := packProgram(ctx, io.NewSectionReader(s.program, 0, s.size), s.size)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("cannot pack km for agents: %w; install it on the agents and give --km-path", err)
	}
	s.archive = archive
	close(s.packed)
	log.WithFields(log.Fields{"bytes": archive.size, "of": s.size, "took": time.Since(began).Round(time.Millisecond)}).Debug("packed km for agents")
	return nil
}

func (s *Server) serve(ctx context.Context) error {
	complaints := log.StandardLogger().WriterLevel(log.DebugLevel)
	defer complaints.Close()
	server := &http.Server{
		Handler: connlimit.Requests(s.handler()), ReadTimeout: requestTimeout, IdleTimeout: requestTimeout, MaxHeaderBytes: 8 << 10,
		ErrorLog: stdlog.New(complaints, "", 0), BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = server.Close() // the task of an interrupted fetcher fails and is launched again
	})
	err := server.Serve(connlimit.Listener(s.listener, maxConnections, maxPerClient))
	if stop() { // ctx has not ended
		return fmt.Errorf("cannot serve km to agents any more: %w", err)
	}
	<-stopped
	return nil
}

func (s *Server) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != s.path():
			http.NotFound(w, r)
			return
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		select {
		case <-s.packed:
		case <-r.Context().Done():
			return
		}
		log.WithField("agent", r.RemoteAddr).Debugf("%s km", r.Method)
		w.Header().Set("Content-Type", "application/gzip")
		w.Header().Set("ETag", `"`+s.archive.sum+`"`)
		http.ServeContent(&paced{ResponseWriter: w, ctx: r.Context(), limit: s.limit}, r, "", time.Time{}, io.NewSectionReader(s.archive.file, 0, s.archive.size))
	})
}
