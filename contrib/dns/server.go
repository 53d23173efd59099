package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/certfile"
	"github.com/k8sm/k8sm/api/health"
	"github.com/k8sm/k8sm/api/protobuf"
	"github.com/k8sm/k8sm/contrib/membership"
	"github.com/k8sm/k8sm/minion/supervise"
)

const (
	// resolvConf names this machine's DNS servers.
	resolvConf = "/etc/resolv.conf"
	// apiTimeout bounds one call to the API server.
	apiTimeout = 5 * time.Second
	// answerTimeout bounds the server's answer to its own query.
	answerTimeout = time.Second
	// lameDuck is how long a server keeps answering after it has left the service, until all nodes know.
	lameDuck = time.Second
)

// server is one replica.
type server struct {
	cfg     Config
	kube    kubernetes.Interface // for calls of at most apiTimeout
	watches kubernetes.Interface
	cluster api.MinionConfig
	clients *clients
	listen  netip.AddrPort
	coredns *caddy.Instance
	text    string // the current Corefile
	member  *membership.Member
}

// Run serves until ctx ends; then it leaves the service and stops. Call it once per process. It waits while the API server is
// unreachable. An invalid configuration is an error.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	takeOverLog()
	forwarding, err := cfg.absolute()
	if err != nil {
		return err
	}
	cfg.Forwarding = forwarding
	s := &server{cfg: cfg}
	if err := s.connect(ctx); err != nil {
		return err
	}
	if err := s.guardQueries(ctx); err != nil {
		return err
	}
	endMetrics, err := s.startMetrics(ctx)
	if err != nil {
		return err
	}
	defer endMetrics()
	if err := s.start(); err != nil {
		return err
	}
	defer s.stop()
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("cannot find this machine's name: %w", err)
	}
	s.member = &membership.Member{
		Kube: s.kube, Of: api.DNSMembership(), What: "DNS server", Host: host, Listen: s.listen,
		Ports: []membership.Port{{Name: api.DNSPortName, Protocol: corev1.ProtocolUDP}, {Name: api.DNSTCPPortName, Protocol: corev1.ProtocolTCP}},
	}
	listener, err := net.Listen("tcp", cfg.health())
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w; give another --health-address", cfg.health(), err)
	}
	probes := &http.Server{Handler: s.probes(), ReadTimeout: apiTimeout, WriteTimeout: apiTimeout}
	go func() { _ = probes.Serve(listener) }()
	defer probes.Close()
	return s.serve(ctx)
}

// connect creates the clients, and reads the cluster's domain.
func (s *server) connect(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", s.cfg.Kubeconfig)
	if err != nil {
		return fmt.Errorf("cannot read how to reach the API server: %w", err)
	}
	if s.watches, err = protobuf.NewClient(config); err != nil {
		return fmt.Errorf("cannot create a client for the API server: %w", err)
	}
	config.Timeout = apiTimeout
	if s.kube, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("cannot create a client for the API server: %w", err)
	}
	address, err := s.cfg.listenAddress(ctx)
	if err != nil {
		return err
	}
	s.listen = netip.AddrPortFrom(address, uint16(s.cfg.Port))
	return supervise.UntilDone(ctx, "cannot read the cluster's domain", func(ctx context.Context) error {
		object, err := s.kube.CoreV1().ConfigMaps(api.MinionConfigNamespace).Get(ctx, api.MinionConfigName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s.cluster, err = api.ReadMinionConfig(object.Data)
		return err
	})
}

// guardQueries learns whose queries are answered. It waits until the nodes are read.
func (s *server) guardQueries(ctx context.Context) (err error) {
	if s.clients, err = newClients(s.cluster, s.cfg.Access); err != nil {
		return err
	}
	guard.Store(s.clients)
	return s.clients.follow(ctx, s.watches)
}

// startMetrics serves metrics, if they are configured, until the caller calls end.
func (s *server) startMetrics(ctx context.Context) (end func(), err error) {
	metrics := s.cfg.Metrics
	if metrics.Address == "" {
		return func() {}, nil
	}
	listener, err := metrics.listen()
	if err != nil {
		return nil, err
	}
	files := map[string]string{"dns-server": metrics.CertFile}
	if config, err := clientcmd.BuildConfigFromFlags("", s.cfg.Kubeconfig); err == nil {
		files["dns"] = config.CertFile
	}
	own := certfile.Metrics(files)
	prometheus.MustRegister(own)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := metrics.serve(ctx, listener); err != nil {
			logrus.WithError(err).Error("the DNS goes on without metrics")
		}
	}()
	return func() {
		cancel()
		<-ended
		prometheus.Unregister(own)
	}, nil
}

// corefile returns the Corefile for the current state of the machine.
func (s *server) corefile() (corefile, error) {
	own := []netip.AddrPort{s.listen}
	for _, text := range s.cluster.ClusterDNS {
		if ip, err := netip.ParseAddr(text); err == nil {
			own = append(own, netip.AddrPortFrom(ip, 53))
		}
	}
	machine, err := os.ReadFile(resolvConf)
	if err != nil && len(s.cfg.Upstreams) == 0 && !errors.Is(err, os.ErrNotExist) {
		return corefile{}, fmt.Errorf("cannot read this machine's DNS servers: %w; set --upstream", err)
	}
	upstreams, left, err := s.cfg.upstreams(machine, own)
	if err != nil {
		return corefile{}, err
	}
	for _, why := range left {
		logrus.Warnf("left out a server of %s: %s", resolvConf, why)
	}
	if len(upstreams) == 0 {
		logrus.Warnf("%s names no server to ask: only names of the cluster resolve; give --upstream", resolvConf)
	}
	return corefile{
		Listen: s.listen, Domain: s.cluster.ClusterDomain, Kubeconfig: s.cfg.Kubeconfig, Upstreams: upstreams, Import: s.cfg.Import,
		Measured: s.cfg.Metrics.Address != "",
	}, nil
}

// start starts CoreDNS.
func (s *server) start() error {
	// CoreDNS shares its port (SO_REUSEPORT), and another program that does so would get half of the queries.
	if err := free(s.listen); err != nil {
		return fmt.Errorf("cannot listen on %s: %w; stop what uses it, or give another --port", s.listen, err)
	}
	file, err := s.corefile()
	if err != nil {
		return err
	}
	text := file.render()
	if s.coredns, err = caddy.Start(input(text)); err != nil {
		return fmt.Errorf("cannot start CoreDNS: %w", err)
	}
	s.text = string(text)
	return nil
}

// free checks that nothing listens on the address.
func free(address netip.AddrPort) error {
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(address))
	if err != nil {
		return err
	}
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(address))
	if err != nil {
		return errors.Join(err, udp.Close())
	}
	return errors.Join(udp.Close(), tcp.Close())
}

func input(corefile []byte) caddy.Input {
	dnsserver.Quiet = true
	return caddy.CaddyfileInput{Filepath: "Corefile", Contents: corefile, ServerTypeName: "dns"}
}

// Check finds errors in a configuration that show without a cluster. Like Run it needs a process of its own.
func Check(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	takeOverLog()
	forwarding, err := cfg.absolute()
	if err != nil {
		return err
	}
	upstreams, _, err := forwarding.upstreams(nil, nil)
	if err != nil {
		return err
	}
	file := corefile{
		Listen: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(cfg.Port)), Domain: "cluster.local", Upstreams: upstreams, Import: forwarding.Import,
	}
	if err := caddy.ValidateAndExecuteDirectives(input(file.render()), nil, true); err != nil {
		return fmt.Errorf("cannot use the configuration of CoreDNS: %w", err)
	}
	return nil
}

// reload applies changes of the machine's resolv.conf.
func (s *server) reload() error {
	file, err := s.corefile()
	if err != nil {
		return err
	}
	text := string(file.render())
	if text == s.text {
		return nil
	}
	logrus.WithField("upstreams", file.Upstreams).Info("this machine's DNS servers have changed")
	coredns, err := s.coredns.Restart(input([]byte(text)))
	if err != nil {
		return fmt.Errorf("cannot use the changed DNS servers of this machine: %w", err)
	}
	s.coredns, s.text = coredns, text
	return nil
}

func (s *server) stop() {
	for _, err := range append(s.coredns.ShutdownCallbacks(), s.coredns.Stop()) {
		if err != nil {
			logrus.WithError(err).Warn("CoreDNS did not stop cleanly")
		}
	}
}

// serve keeps the replica in the service as long as it answers, and leaves the service when ctx ends.
func (s *server) serve(ctx context.Context) error {
	var changed time.Time
	for pause := time.Duration(0); supervise.Sleep(ctx, pause) == nil; {
		err := s.ask(ctx)
		if err != nil {
			logrus.WithError(err).Warn("this DNS server does not answer itself")
		}
		once, cancel := context.WithTimeout(ctx, membership.Patience)
		if err = s.member.Beat(once, err == nil); err != nil && ctx.Err() == nil {
			logrus.WithError(err).Warn("cannot update the service, retrying")
		}
		cancel()
		pause = s.member.Pause(err)
		if err := s.clients.lookAround(); err != nil {
			logrus.WithError(err).Warn("this machine's own queries may be refused")
		}
		if stat, err := os.Stat(resolvConf); err == nil && !stat.ModTime().Equal(changed) {
			changed = stat.ModTime()
			if err := s.reload(); err != nil {
				return err
			}
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), apiTimeout)
	defer cancel()
	if err := s.member.Leave(last); err != nil {
		return err
	}
	return supervise.Sleep(last, lameDuck)
}

// ask queries the server for a name that every cluster has.
func (s *server) ask(ctx context.Context) error {
	name := "kubernetes.default.svc." + dns.Fqdn(s.cluster.ClusterDomain)
	client := dns.Client{Timeout: answerTimeout}
	kind := dns.TypeA
	if len(s.cluster.ClusterDNS) > 0 && netip.MustParseAddr(s.cluster.ClusterDNS[0]).Is6() {
		kind = dns.TypeAAAA
	}
	answer, _, err := client.ExchangeContext(ctx, new(dns.Msg).SetQuestion(name, kind), s.listen.String())
	if err != nil {
		return err
	}
	if answer.Rcode != dns.RcodeSuccess || len(answer.Answer) == 0 {
		return fmt.Errorf("for %s it answers %s with %d records", name, dns.RcodeToString[answer.Rcode], len(answer.Answer))
	}
	return nil
}

// probes are for supervisors: the server is alive if it answers, and ready if it is in the service. /health and /ready are CoreDNS' names.
func (s *server) probes() http.Handler {
	alive := func(ctx context.Context) error {
		client := dns.Client{Timeout: answerTimeout}
		_, _, err := client.ExchangeContext(ctx, new(dns.Msg).SetQuestion("health."+dns.Fqdn(s.cluster.ClusterDomain), dns.TypeA), s.listen.String())
		return err
	}
	ready := func(context.Context) error { return s.member.Ready() }
	mux := http.NewServeMux()
	health.Handle(mux, alive, ready)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) { health.Answer(w, alive(r.Context())) })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) { health.Answer(w, ready(r.Context())) })
	return mux
}
