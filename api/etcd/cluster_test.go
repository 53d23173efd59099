package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	logrustest "github.com/sirupsen/logrus/hooks/test"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	certutil "k8s.io/client-go/util/cert"

	"github.com/k8sm/k8sm/api/heldport"
	"github.com/k8sm/k8sm/api/snapshot"
	"github.com/k8sm/k8sm/api/statedir"
)

// machine is a state directory with a member that may run.
type machine struct {
	*Member
	t    *testing.T // that it runs for
	stop context.CancelFunc
	done chan struct{}
	err  error // valid when done is closed
}

// newMachine has the etcd CA of the other machine, if there is one.
func newMachine(t *testing.T, name string, like *machine) *machine {
	t.Helper()
	m := &machine{t: t, Member: &Member{Dir: statedir.Dir(t.TempDir()), Name: name, Advertise: "127.0.0.1", Quota: DefaultQuota, MinTLS: "TLS1.2"}}
	m.ClientPort, m.PeerPort = heldport.OfTest(t), heldport.OfTest(t)
	if like != nil {
		m.copyCA(t, like.Dir)
	}
	return m
}

func (m *machine) copyCA(t *testing.T, from statedir.Dir) {
	t.Helper()
	for _, name := range []string{"pki/etcd-ca.crt", "pki/etcd-ca.key"} {
		data, err := os.ReadFile(from.In(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(m.Dir.In(name)), 0o700), os.WriteFile(m.Dir.In(name), data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// start runs the member until it is stopped, or the machine's test ends.
func (m *machine) start(join ...string) {
	m.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	m.stop, m.done = stop, done
	go func() { defer close(done); m.err = m.Run(ctx, join) }()
	m.t.Cleanup(func() { stop(); <-done })
}

func (m *machine) end(t *testing.T) error {
	t.Helper()
	m.stop()
	return m.await(t)
}

func (m *machine) await(t *testing.T) error {
	t.Helper()
	select {
	case <-m.done:
		return m.err
	case <-time.After(time.Minute):
		t.Fatal("the member has not ended")
		return nil
	}
}

// eventually waits until there is no problem.
func eventually(t *testing.T, condition func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := condition(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (m *machine) client(t *testing.T) *clientv3.Client {
	t.Helper()
	var c *clientv3.Client
	eventually(t, func(context.Context) (err error) { // it makes the certificates first
		c, err = Dial(m.access(m.clientURL()))
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// awaitMembers waits until all that are named vote, one leads and none is behind, and the machine has recorded all.
func (m *machine) awaitMembers(t *testing.T, names ...string) (leader string) {
	t.Helper()
	c := m.client(t)
	eventually(t, func(ctx context.Context) error {
		all, err := Read(ctx, c)
		if err != nil {
			return err
		}
		var got []string
		leader = ""
		for _, s := range all {
			if s.Role == "leader" {
				leader = s.Name
			}
			if s.Role == "" || s.Role == "learner" || s.Lag > 0 || s.Quota != int64(m.Quota) || s.Version == "" {
				return fmt.Errorf("%+v", s)
			}
			got = append(got, s.Name)
		}
		if strings.Join(got, " ") != strings.Join(names, " ") || leader == "" {
			return fmt.Errorf("the members are %v, want %v; %q leads", got, names, leader)
		}
		return nil
	})
	return leader
}

// beginEmbedded leaves the data of an etcd that never had peers, as a control plane alone has it.
func (m *machine) beginEmbedded(t *testing.T) {
	t.Helper()
	c := embed.NewConfig()
	c.Name, c.Dir, c.ListenPeerUrls = "k8sm", m.Dir.EtcdData(), nil
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.ListenClientUrls[0].Host = "127.0.0.1:0"
	c.AdvertiseClientUrls = c.ListenClientUrls
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	<-e.Server.ReadyNotify()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + e.Clients[0].Addr().String()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Put(t.Context(), "kept", "from before"); err != nil {
		t.Fatal(err)
	}
	if err := m.Dir.PrepareEtcd(statedir.EtcdSpec{Now: time.Now(), New: true}); err != nil { // the control plane makes the CA
		t.Fatal(err)
	}
}

// TestMembersComeAndGo is one test because each change of the members takes etcd seconds.
func TestMembersComeAndGo(t *testing.T) {
	a := newMachine(t, "a", nil)
	a.beginEmbedded(t)
	a.start()
	a.awaitMembers(t, "a")
	b, c := newMachine(t, "b", a), newMachine(t, "c", a)
	b.start(a.clientURL())
	a.awaitMembers(t, "a", "b")
	c.start(b.clientURL(), "https://127.0.0.1:1")
	a.awaitMembers(t, "a", "b", "c")
	if got, err := c.client(t).Get(t.Context(), "kept"); err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "from before" {
		t.Errorf("the last member has %v, %v", got, err)
	}
	t.Run("programs find all members", func(t *testing.T) { recordsAll(t, c, a, b) })
	t.Run("a client's certificate is no member's", func(t *testing.T) { peersOnly(t, a) })
	t.Run("a member without the CA is refused", func(t *testing.T) {
		err := newMachine(t, "d", nil).Run(t.Context(), []string{a.clientURL()})
		if err == nil || !strings.Contains(err.Error(), "copy pki/ of a machine with one of its members") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a name that lives is taken", func(t *testing.T) {
		err := newMachine(t, "b", a).Run(t.Context(), []string{a.clientURL()})
		if err == nil || !strings.Contains(err.Error(), "the member b, which has this name or address, lives at "+b.clientURL()) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a dead member is replaced", func(t *testing.T) { replaceDead(t, a, b, c) })
	t.Run("a member that leads leaves", func(t *testing.T) { leaveLeading(t, a, b, c) })
	t.Run("without a quorum nobody joins or leaves", func(t *testing.T) { withoutQuorum(t, a, b) })
}

func recordsAll(t *testing.T, m *machine, others ...*machine) {
	eventually(t, func(context.Context) error {
		e, err := m.Dir.Etcd()
		if err != nil {
			return err
		}
		for _, other := range append(others, m) {
			if !strings.Contains(strings.Join(e.Endpoints, " "), other.clientURL()) || !e.Managed || e.Embedded {
				return fmt.Errorf("recorded %+v", e)
			}
		}
		return nil
	})
}

// peersOnly speaks to the peer port with the administrator's certificate, and with the member's own.
func peersOnly(t *testing.T, m *machine) {
	ask := func(cert, key string) error {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := tls.Dial("tcp", strings.TrimPrefix(m.peerURL(), "https://"), &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true})
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "GET /version HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 1))
		return err
	}
	if err := ask(m.Dir.Pair(statedir.EtcdPeer)); err != nil {
		t.Errorf("a member is refused: %v", err)
	}
	if err := ask(m.Dir.EtcdClientCert(), m.Dir.EtcdClientKey()); err == nil {
		t.Error("a client speaks as a member")
	}
}

// replaceDead stops c. Then b may not leave. c is removed, and comes back with an empty disk.
func replaceDead(t *testing.T, a, b, c *machine) {
	if err := c.end(t); err != nil {
		t.Errorf("c ended with %v", err)
	}
	access := a.access(a.clientURL(), b.clientURL())
	if err := Leave(t.Context(), access, "b"); err == nil || !strings.Contains(err.Error(), "of the other 2 members only 1 answer") {
		t.Errorf("b leaves: %v", err)
	}
	if err := Leave(t.Context(), access, "x"); err == nil || !strings.Contains(err.Error(), "there is no member x") {
		t.Errorf("x leaves: %v", err)
	}
	if err := os.RemoveAll(c.Dir.EtcdData()); err != nil {
		t.Fatal(err)
	}
	c.start(a.clientURL(), b.clientURL()) // at its address: it takes its own place
	a.awaitMembers(t, "a", "b", "c")
	if err := c.end(t); err != nil {
		t.Errorf("c ended with %v", err)
	}
	elsewhere := newMachine(a.t, "c", a)
	if err := elsewhere.Run(t.Context(), []string{a.clientURL()}); err == nil || !strings.Contains(err.Error(), "call km etcd leave c first") {
		t.Errorf("c joins from elsewhere: %v", err)
	}
	if err := Leave(t.Context(), access, "c"); err != nil {
		t.Fatal(err)
	}
	*c = *elsewhere
	c.start(a.clientURL())
	a.awaitMembers(t, "a", "b", "c")
}

func leaveLeading(t *testing.T, a, b, c *machine) {
	leader := map[string]*machine{"a": a, "b": b, "c": c}[a.awaitMembers(t, "a", "b", "c")]
	if leader != c { // so that a and b remain
		moveTo(t, leader, c)
	}
	if err := Leave(t.Context(), c.access(c.clientURL(), a.clientURL(), b.clientURL()), ""); err != nil { // itself
		t.Fatal(err)
	}
	if err := c.await(t); !errors.Is(err, ErrRemoved) {
		t.Errorf("c ended with %v", err)
	}
	if _, err := os.Stat(c.Dir.EtcdData() + ".removed"); err != nil {
		t.Error(err)
	}
	a.awaitMembers(t, "a", "b")
}

func moveTo(t *testing.T, from, to *machine) {
	t.Helper()
	c := from.client(t)
	status, err := to.client(t).Status(t.Context(), to.clientURL())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.MoveLeader(t.Context(), status.Header.MemberId); err != nil {
		t.Fatal(err)
	}
}

func withoutQuorum(t *testing.T, a, b *machine) {
	if err := b.end(t); err != nil {
		t.Errorf("b ended with %v", err)
	}
	if err := newMachine(t, "d", a).Run(t.Context(), []string{a.clientURL()}); !errors.Is(err, errNoQuorum) {
		t.Errorf("d joins: %v", err)
	}
	if err := Leave(t.Context(), a.access(a.clientURL()), "b"); !errors.Is(err, errNoQuorum) {
		t.Errorf("b leaves: %v", err)
	}
	all, err := Read(t.Context(), a.client(t))
	if err != nil || len(all) != 2 || all[1].Role != "" || all[1].Problem == "" || all[0].Problem != "it knows no leader" {
		t.Errorf("the status is %+v, %v", all, err)
	}
}

// gauge returns the value of the alarm's metric.
func gauge(t *testing.T) float64 {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "k8sm_etcd_nospace" {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return -1
}

func TestFullDatabaseIsToldAndBecomesWritableAgain(t *testing.T) {
	hook := logrustest.NewGlobal()
	defer logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{})
	m := newMachine(t, "a", nil)
	m.Quota = 16 << 20
	m.start()
	m.awaitMembers(t, "a")
	c := m.client(t)
	put := func() error {
		_, err := c.Put(t.Context(), "k", strings.Repeat("x", 1<<20))
		return err
	}
	var err error
	for range 40 {
		if err = put(); err != nil {
			break
		}
	}
	if !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Fatalf("the database is full: %v", err)
	}
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	m.start() // it looks at once
	eventually(t, func(context.Context) error {
		if got := gauge(t); got != 1 {
			return fmt.Errorf("the metric is %v", got)
		}
		return nil
	})
	told := false
	for _, e := range hook.AllEntries() {
		told = told || e.Level == logrus.ErrorLevel && strings.Contains(e.Message, "km etcd defrag")
	}
	if !told {
		t.Error("the log does not tell what to do")
	}
	all, err := Read(t.Context(), c)
	if err != nil || len(Advice(all)) != 1 || all[0].Alarms[0] != noSpace {
		t.Errorf("the status is %+v, %v", all, err)
	}
	if done, err := Recover(t.Context(), c); err != nil || len(done) != 1 {
		t.Fatalf("defragmented %v, %v", done, err)
	}
	if err := put(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if all, err = Read(t.Context(), c); err != nil || len(Advice(all)) != 0 || all[0].Size > 8<<20 {
		t.Errorf("the status is %+v, %v", all, err)
	}
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
}

func TestMemberSavesSnapshotsOfEtcdAlone(t *testing.T) {
	m := newMachine(t, "a", nil)
	m.Snapshots = snapshot.Schedule{Dir: t.TempDir(), Every: time.Hour, Keep: 2}
	m.start()
	m.awaitMembers(t, "a")
	var files []string
	eventually(t, func(context.Context) (err error) {
		if files, err = filepath.Glob(filepath.Join(m.Snapshots.Dir, "k8sm-*.tar")); len(files) != 1 {
			return fmt.Errorf("there are %v, %v", files, err)
		}
		return nil
	})
	if err := m.end(t); err != nil {
		t.Fatal(err)
	}
	restored := newMachine(t, "b", nil)
	restored.Dir = statedir.Dir(t.TempDir())
	if found, err := snapshot.Restore(files[0], restored.Dir); err != nil || found.CA != "" {
		t.Fatalf("%+v, %v", found, err)
	}
	restored.start()
	restored.awaitMembers(t, "b")
}

func TestQuotaIsAQuantity(t *testing.T) {
	var q Quota
	for text, want := range map[string]int64{"8Gi": 8 << 30, "2147483648": 2 << 30} {
		if err := q.Set(text); err != nil || int64(q) != want {
			t.Errorf("%s is %d, %v", text, q, err)
		}
	}
	if err := q.Set("much"); err == nil {
		t.Error("much is a quota")
	}
	q = 1 << 20
	if err := q.Validate("quota"); err == nil || err.Error() != "cannot use --quota=1Mi: give 64Mi or more, such as 8Gi" {
		t.Errorf("got %v", err)
	}
}

func TestDefragmentationMustPay(t *testing.T) {
	for s, want := range map[[2]int64]bool{{300 << 20, 100 << 20}: true, {300 << 20, 200 << 20}: false, {100 << 20, 1 << 20}: false, {4 << 30, 3 << 30}: false} {
		if got := worthIt(Status{Size: s[0], InUse: s[1]}); got != want {
			t.Errorf("of %d bytes %d in use: %t", s[0], s[1], got)
		}
	}
}

// Profiles show what is in memory, keys and values too: etcd's administrator may read them, and no other client.
func TestProfilesOfAMemberAreForTheAdministrator(t *testing.T) {
	m := newMachine(t, "m1", nil)
	m.start()
	m.awaitMembers(t, "m1")
	if err := m.Dir.Prepare(statedir.Spec{Now: time.Now(), ServerURL: "https://127.0.0.1", ServerNames: []string{"127.0.0.1"}, EtcdNames: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	ca, err := certutil.NewPool(m.Dir.EtcdCA())
	if err != nil {
		t.Fatal(err)
	}
	pair := func(leaf statedir.Leaf) [2]string { cert, key := m.Dir.Pair(leaf); return [2]string{cert, key} }
	for who, test := range map[string]struct {
		files [2]string
		want  int
	}{
		"root":           {[2]string{m.Dir.EtcdClientCert(), m.Dir.EtcdClientKey()}, http.StatusOK},
		"the scheduler":  {pair(statedir.SchedulerEtcdClient), http.StatusForbidden},
		"kube-apiserver": {pair(statedir.APIServerEtcdClient), http.StatusForbidden},
		"the metrics":    {pair(statedir.MetricsEtcdClient), http.StatusForbidden},
	} {
		own, err := tls.LoadX509KeyPair(test.files[0], test.files[1])
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca, Certificates: []tls.Certificate{own}}}}
		for _, path := range []string{"", "heap", "goroutine?debug=1"} {
			answer, err := client.Get(m.clientURL() + "/debug/pprof/" + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			if answer.StatusCode != test.want {
				t.Errorf("%s gets %s for /debug/pprof/%s, want %d", who, answer.Status, path, test.want)
			}
		}
		client.CloseIdleConnections()
	}
}
