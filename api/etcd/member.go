// Package etcd runs a member of a cluster's etcd as a process of its own, and looks after etcd: who its members are, how they come and
// go, and how much room their databases have. The embedded etcd of a control plane gets the same care. It knows nothing of the keys.
//
// Start reading at Member.Run; cluster.go has what is done to a cluster from outside, care.go what is watched.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/k8sm/k8sm/api/callers"
	"github.com/k8sm/k8sm/api/profiling"
	"github.com/k8sm/k8sm/api/snapshot"
	"github.com/k8sm/k8sm/api/statedir"
)

// DefaultQuota is the size at which a database takes no more writes: the largest that etcd suggests
// (https://etcd.io/docs/v3.6/dev-guide/limit/). etcd's own default of 2 GiB is little for objects in JSON, and a quota costs nothing
// until it is used.
const DefaultQuota = 8 << 30

// Quota is the flag for that size.
type Quota int64

// String formats the quota as Kubernetes formats quantities.
func (q *Quota) String() string { return resource.NewQuantity(int64(*q), resource.BinarySI).String() }

// Set reads a quantity such as 8Gi.
func (q *Quota) Set(text string) error {
	value, err := resource.ParseQuantity(text)
	if err != nil {
		return err
	}
	*q = Quota(value.Value())
	return nil
}

// Type is for the flags' help.
func (*Quota) Type() string { return "quantity" }

// smallestQuota is what a cluster without pods needs, with room to compact.
const smallestQuota = 64 << 20

// Validate refuses a quota that no cluster can live with, in the words of the flag with this name.
func (q *Quota) Validate(flag string) error {
	if *q < smallestQuota {
		return fmt.Errorf("cannot use --%s=%s: give 64Mi or more, such as 8Gi", flag, q)
	}
	return nil
}

// Member is a member that this machine runs.
type Member struct {
	Dir statedir.Dir
	// Name is unique in the cluster.
	Name string
	// Advertise is the IP address at which other machines reach the member; it listens at Listen, or there if that is empty.
	Advertise, Listen string
	// ClientPort and PeerPort are its ports.
	ClientPort, PeerPort int
	Quota                Quota
	// Suites and MinTLS restrict TLS, in etcd's words.
	Suites []string
	MinTLS string
	// Lives are those of its certificates.
	Lives statedir.Lives
	// Snapshots says when the cluster is saved to files. Those of a machine without a control plane may have etcd alone.
	Snapshots snapshot.Schedule
	// Ready, if set, is called once the member serves and votes.
	Ready func()
}

// AddFlags adds the flags of a member and sets the defaults. Dir, Suites, MinTLS and Ready have none.
func (m *Member) AddFlags(fs *pflag.FlagSet) {
	m.Quota = DefaultQuota
	fs.StringVar(&m.Name, "name", "", "`name` of this member (default: the machine's host name)")
	fs.StringVar(&m.Advertise, "advertise-address", "", "`IP address` at which the other members and the API servers reach this one (default: this machine's address)")
	fs.StringVar(&m.Listen, "listen-address", "", "`IP address` to listen on (default: --advertise-address)")
	fs.IntVar(&m.ClientPort, "client-port", 2379, "port for clients: API servers and schedulers (HTTPS with client certificates)")
	fs.IntVar(&m.PeerPort, "peer-port", 2380, "port for the other members (HTTPS with certificates of members)")
	m.Lives.AddFlags(fs)
	m.Snapshots.AddFlags(fs)
	fs.Var(&m.Quota, "quota", "size of the database at which it takes no more writes; etcd suggests no more than 8Gi")
}

// Validate finds wrong flags.
func (m *Member) Validate() error {
	if m.Name == "" || strings.ContainsAny(m.Name, "=,/ ") {
		return fmt.Errorf("cannot use --name=%s: give a name without =, comma, slash or space", m.Name)
	}
	for _, address := range [][2]string{{"advertise-address", m.Advertise}, {"listen-address", m.Listen}} {
		if ip := net.ParseIP(address[1]); address[1] != "" && ip == nil || address[0] == "advertise-address" && (ip == nil || ip.IsUnspecified()) {
			return fmt.Errorf("cannot use --%s=%s: give an IP address of this machine", address[0], address[1])
		}
	}
	for _, port := range []struct {
		flag   string
		number int
	}{{"client-port", m.ClientPort}, {"peer-port", m.PeerPort}} {
		if port.number < 1 || port.number > 65535 {
			return fmt.Errorf("cannot use --%s=%d: give a port from 1 to 65535", port.flag, port.number)
		}
	}
	if err := errors.Join(m.Lives.Validate(), m.Snapshots.Validate()); err != nil {
		return err
	}
	return m.Quota.Validate("quota")
}

func (m *Member) at(address string, port int) url.URL {
	return url.URL{Scheme: "https", Host: net.JoinHostPort(address, strconv.Itoa(port))}
}

func (m *Member) clientURL() string { u := m.at(m.Advertise, m.ClientPort); return u.String() }
func (m *Member) peerURL() string   { u := m.at(m.Advertise, m.PeerPort); return u.String() }

// config returns how etcd runs. peers are the peer URLs of all members by name; joining says that a cluster is there already.
func (m *Member) config(peers map[string]string, joining bool, log *zap.Logger) *embed.Config {
	c := embed.NewConfig()
	c.Name, c.Dir = m.Name, m.Dir.EtcdData()
	listen := m.Listen
	if listen == "" {
		listen = m.Advertise
	}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{m.at(listen, m.ClientPort)}, []url.URL{m.at(m.Advertise, m.ClientPort)}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{m.at(listen, m.PeerPort)}, []url.URL{m.at(m.Advertise, m.PeerPort)}
	var initial []string
	for name, peer := range peers {
		initial = append(initial, name+"="+peer)
	}
	c.InitialCluster, c.InitialClusterToken = strings.Join(initial, ","), "k8sm"
	if joining {
		c.ClusterState = embed.ClusterStateFlagExisting
	}
	c.QuotaBackendBytes = int64(m.Quota)
	c.EnableGRPCGateway = false
	// EnablePprof would show them to every client, such as the scheduler, which may read a part of the keys only.
	c.UserHandlers = map[string]http.Handler{profiling.Path: callers.Only(profiling.Handler(), statedir.EtcdRoot)}
	c.CipherSuites, c.TlsMinVersion = m.Suites, m.MinTLS
	c.WarningUnaryRequestDuration = embed.DefaultWarningUnaryRequestDuration
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	cert, key := m.Dir.Pair(statedir.EtcdMember)
	c.ClientTLSInfo = transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: m.Dir.EtcdCA(), ClientCertAuth: true}
	// The CA signs clients' certificates, too: only members may speak as members.
	cert, key = m.Dir.Pair(statedir.EtcdPeer)
	c.PeerTLSInfo = transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: m.Dir.EtcdCA(), ClientCertAuth: true,
		AllowedCNs: []string{statedir.EtcdPeerUser}}
	return c
}

// started reports whether the member has data: then it belongs to a cluster, and neither makes nor joins one.
func (m *Member) started() (bool, error) {
	_, err := os.Stat(filepath.Join(m.Dir.EtcdData(), "member", "wal"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Run runs the member until ctx ends. Without data it joins the cluster of the members with the client URLs in join, or makes a new
// cluster if join is empty. When the member has been removed from its cluster, its data is set aside, and the error is ErrRemoved.
func (m *Member) Run(ctx context.Context, join []string) (err error) {
	unlock, err := m.Dir.Lock("etcd")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	has, err := m.started()
	if err != nil {
		return fmt.Errorf("cannot read etcd's data: %w", err)
	}
	if err := m.certify(!has && len(join) == 0); err != nil {
		return err
	}
	peers := map[string]string{m.Name: m.peerURL()}
	if !has && len(join) > 0 {
		if peers, err = m.join(ctx, join); err != nil {
			return fmt.Errorf("cannot join etcd at %s: %w", strings.Join(join, ", "), err)
		}
	}
	if access, err := m.Dir.Etcd(); err != nil || !access.Managed { // so that no control plane begins an etcd of its own here
		if err := m.Dir.WriteEtcd(m.access(append([]string{m.clientURL()}, join...)...)); err != nil {
			return err
		}
	}
	logged := zap.NewAtomicLevelAt(zap.ErrorLevel) // until it serves, it warns of choices that are right here
	e, err := embed.StartEtcd(m.config(peers, !has && len(join) > 0, Logger(logged)))
	if err != nil {
		return fmt.Errorf("cannot start etcd in %s: %w", m.Dir.EtcdData(), err)
	}
	err = m.serve(ctx, e, logged)
	logged.SetLevel(zap.FatalLevel) // it logs each listener that it closes
	e.Close()
	return err
}

// certify issues the certificates of the member, which begins a cluster or belongs to one, or renews those that are due. etcd reads them for
// each connection.
func (m *Member) certify(begins bool) error {
	return m.Dir.PrepareEtcd(statedir.EtcdSpec{Now: time.Now(), Names: []string{m.Advertise, "localhost", "127.0.0.1"}, New: begins, Lives: m.Lives})
}

// ErrRemoved says that the member belongs to its cluster no more.
var ErrRemoved = errors.New("this member has been removed from its cluster")

// serve waits until etcd serves, makes the member one that votes, and returns when ctx or etcd ends.
func (m *Member) serve(ctx context.Context, e *embed.Etcd, logged zap.AtomicLevel) error {
	select {
	case <-e.Server.ReadyNotify():
		logged.SetLevel(zap.WarnLevel)
	case <-ctx.Done():
		return nil
	case err := <-e.Err():
		return m.failed(e, err)
	case <-e.Server.StopNotify():
		return m.stopped(e)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		if err := m.settle(ctx, e); err != nil && ctx.Err() == nil {
			failed <- err
		}
	}()
	defer func() { cancel(); <-done }()
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	case err := <-e.Err():
		return m.failed(e, err)
	case <-e.Server.StopNotify():
		return m.stopped(e)
	}
}

// failed explains why a listener of etcd has ended: etcd may have ended by itself.
func (m *Member) failed(e *embed.Etcd, err error) error {
	select {
	case <-e.Server.StoppingNotify():
		<-e.Server.StopNotify()
		return m.stopped(e)
	default:
		return fmt.Errorf("cannot run etcd in %s: %w", m.Dir.EtcdData(), err)
	}
}

// stopped explains why etcd has ended by itself.
func (m *Member) stopped(e *embed.Etcd) error {
	cluster, ok := e.Server.Cluster().(interface{ IsIDRemoved(id types.ID) bool })
	if !ok || !cluster.IsIDRemoved(e.Server.MemberID()) {
		return fmt.Errorf("etcd stopped by itself: if it was removed from its cluster, remove %s and join again", m.Dir.EtcdData())
	}
	aside := m.Dir.EtcdData() + ".removed"
	if err := errors.Join(os.RemoveAll(aside), os.Rename(m.Dir.EtcdData(), aside)); err != nil {
		return fmt.Errorf("%w; cannot set its data aside: %w", ErrRemoved, err)
	}
	return fmt.Errorf("%w; its data is in %s. km etcd join makes it a member again", ErrRemoved, aside)
}

// settle records how clients reach the cluster, corrects the member's address, and makes it one that votes. Then it looks after etcd.
func (m *Member) settle(ctx context.Context, e *embed.Etcd) error {
	id := uint64(e.Server.MemberID())
	if e.Server.IsLearner() {
		if err := m.vote(ctx, e, id); err != nil {
			return err
		}
	}
	c, err := Dial(m.access(m.clientURL()))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := m.correct(ctx, c, id); err != nil {
		return err
	}
	logrus.WithFields(logrus.Fields{"member": m.Name, "url": m.clientURL()}).Info("etcd: this member serves and votes")
	record := func(ctx context.Context) {
		if err := m.certify(false); err != nil {
			logrus.WithError(err).Error("etcd: cannot renew its certificates: trying again")
		}
		if err := m.record(ctx, c); err != nil && ctx.Err() == nil {
			logrus.WithError(err).Warn("etcd: cannot record the addresses of its members")
		}
	}
	record(ctx)
	if m.Ready != nil { // programs that start now find the record
		m.Ready()
	}
	var saving sync.WaitGroup
	defer saving.Wait()
	saving.Go(func() { m.saveSnapshots(ctx) })
	Care{Client: c, Member: id, Endpoint: m.clientURL(), Each: record}.Run(ctx)
	return nil
}

// saveSnapshots saves snapshots by the schedule until ctx ends. Its metrics are among those of etcd.
func (m *Member) saveSnapshots(ctx context.Context) {
	if m.Snapshots.Dir == "" {
		return
	}
	figures := snapshot.NewFigures()
	for _, figure := range figures.Collectors() {
		if err := prometheus.Register(figure); err == nil {
			defer prometheus.Unregister(figure)
		}
	}
	m.Snapshots.Run(ctx, figures, func(ctx context.Context, file string) (snapshot.Manifest, error) {
		config, err := ClientConfig(m.access(m.clientURL()))
		if err != nil {
			return snapshot.Manifest{}, err
		}
		return snapshot.Save(ctx, snapshot.Source{Dir: m.Dir, Etcd: config}, file)
	})
}

// vote makes this learner a member that votes. Learners answer no questions about members: the others are asked.
func (m *Member) vote(ctx context.Context, e *embed.Etcd, id uint64) error {
	logrus.WithField("member", m.Name).Info("etcd: this member catches up with the others")
	var others []string
	for _, other := range e.Server.Cluster().Members() {
		if !other.IsLearner {
			others = append(others, other.ClientURLs...)
		}
	}
	c, err := Dial(m.access(others...))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return promote(ctx, c, id)
}

// access returns how the administrator reaches these members.
func (m *Member) access(endpoints ...string) statedir.Etcd {
	return statedir.Etcd{
		Endpoints: endpoints, CAFile: m.Dir.EtcdCA(), CertFile: m.Dir.EtcdClientCert(), KeyFile: m.Dir.EtcdClientKey(), Managed: true,
	}
}

// correct changes the member's peer URL in the cluster if it has another one now. A member that began as an embedded etcd has none
// that others reach.
func (m *Member) correct(ctx context.Context, c *clientv3.Client, id uint64) error {
	return untilDone(ctx, "cannot tell the other members this member's address yet", func(ctx context.Context) error {
		list, err := c.MemberList(ctx)
		if err != nil {
			return err
		}
		for _, member := range list.Members {
			if member.ID == id && (len(member.PeerURLs) != 1 || member.PeerURLs[0] != m.peerURL()) {
				_, err := c.MemberUpdate(ctx, id, []string{m.peerURL()})
				return err
			}
		}
		return nil
	})
}

// record writes how programs on this machine reach the cluster: by all members that have started, this one first.
func (m *Member) record(ctx context.Context, c *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	list, err := c.MemberList(ctx)
	if err != nil {
		return err
	}
	endpoints := []string{m.clientURL()}
	for _, member := range list.Members {
		for _, u := range member.ClientURLs {
			if u != m.clientURL() && !member.IsLearner {
				endpoints = append(endpoints, u)
			}
		}
	}
	return m.Dir.WriteEtcd(m.access(endpoints...))
}
