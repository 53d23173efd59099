package mesos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/google/go-cmp/cmp"
	log "github.com/sirupsen/logrus"
	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/api/heldport"
	"github.com/k8sm/k8sm/contrib/localmesos"
	"github.com/k8sm/k8sm/scheduler"
)

// zooKeeperServer is a real ZooKeeper, of Debian's package libzookeeper-java.
type zooKeeperServer struct {
	t       *testing.T
	address string
	dir     string
	process *exec.Cmd
}

func newZooKeeper(t *testing.T) *zooKeeperServer {
	t.Helper()
	z := &zooKeeperServer{t: t, address: fmt.Sprintf("127.0.0.1:%d", heldport.OfTest(t)), dir: t.TempDir()}
	z.start()
	t.Cleanup(z.kill)
	return z
}

// start starts the server; it knows nothing of what it knew before.
func (z *zooKeeperServer) start() {
	z.t.Helper()
	host, port, _ := net.SplitHostPort(z.address)
	data, config := filepath.Join(z.dir, "data"), filepath.Join(z.dir, "zoo.cfg")
	if err := os.RemoveAll(data); err != nil {
		z.t.Fatal(err)
	}
	text := fmt.Sprintf("dataDir=%s\nclientPort=%s\nclientPortAddress=%s\ntickTime=200\nadmin.enableServer=false\n", data, port, host)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		z.t.Fatal(err)
	}
	var said bytes.Buffer
	z.process = exec.Command("java", "-Xmx64m", "-cp", "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar",
		"org.apache.zookeeper.server.quorum.QuorumPeerMain", config)
	z.process.Stdout, z.process.Stderr = &said, &said
	if err := z.process.Start(); err != nil {
		z.t.Fatalf("cannot start ZooKeeper, run contrib/install-deps tests: %v", err)
	}
	ctx, cancel := context.WithTimeout(z.t.Context(), time.Minute)
	defer cancel()
	for {
		if z.serves() {
			return
		}
		select {
		case <-ctx.Done():
			z.kill()
			z.t.Fatalf("ZooKeeper does not answer: %s", said.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// serves asks the server for its mode, which it has once it answers clients.
func (z *zooKeeperServer) serves() bool {
	conn, err := net.DialTimeout("tcp", z.address, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	// A server that is about to start takes connections and never answers.
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	if _, err := conn.Write([]byte("srvr")); err != nil {
		return false
	}
	answer, err := io.ReadAll(conn)
	return err == nil && bytes.Contains(answer, []byte("Mode: standalone"))
}

func (z *zooKeeperServer) kill() {
	_ = z.process.Process.Kill()
	_ = z.process.Wait()
}

// client returns a connection with a session of its own.
func (z *zooKeeperServer) client() *zk.Conn {
	z.t.Helper()
	conn, events, err := zk.Connect([]string{z.address}, 4*time.Second, zk.WithLogger(zkLog{}), zk.WithLogInfo(false))
	if err != nil {
		z.t.Fatal(err)
	}
	z.t.Cleanup(conn.Close)
	for deadline := time.After(time.Minute); ; {
		select {
		case e := <-events:
			if e.State == zk.StateHasSession {
				return conn
			}
		case <-deadline:
			z.t.Fatal("no session with ZooKeeper")
		}
	}
}

// register adds a node as a master does and returns its path.
func register(t *testing.T, conn *zk.Conn, info []byte, acl []zk.ACL) string {
	t.Helper()
	path, err := conn.Create("/mesos/json.info_", info, zk.FlagEphemeral|zk.FlagSequence, acl)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func makePath(t *testing.T, conn *zk.Conn, path string) {
	t.Helper()
	if _, err := conn.Create(path, nil, 0, zk.WorldACL(zk.PermAll)); err != nil {
		t.Fatal(err)
	}
}

// newMesos starts a local Mesos without agents and returns it with what its master says of itself.
func newMesos(t *testing.T) (address string, info []byte) {
	t.Helper()
	var cfg localmesos.Config
	cfg.AddFlags(pflag.NewFlagSet("", pflag.PanicOnError))
	cfg.Agents, cfg.Port, cfg.WorkDir, cfg.Authentication = 0, 0, t.TempDir(), localmesos.Authentication{}
	local, err := localmesos.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(local.Stop)
	response, err := http.Post("http://"+local.MasterAddr()+"/api/v1", "application/json", strings.NewReader(`{"type":"GET_MASTER"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		GetMaster struct {
			MasterInfo json.RawMessage `json:"master_info"`
		} `json:"get_master"`
	}
	body, err := io.ReadAll(response.Body)
	if err == nil {
		err = json.Unmarshal(body, &answer)
	}
	if err != nil || len(answer.GetMaster.MasterInfo) == 0 {
		t.Fatalf("the master says %s, %v", body, err)
	}
	return local.MasterAddr(), answer.GetMaster.MasterInfo
}

// connected tells whether a framework is connected at the master.
func connected(t *testing.T, master string) bool {
	t.Helper()
	response, err := http.Get("http://" + master + "/frameworks")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Frameworks []struct{ Connected bool }
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	for _, f := range answer.Frameworks {
		if f.Connected {
			return true
		}
	}
	return false
}

// followed expects a subscription, at the second master of the two.
func followed(t *testing.T, events <-chan scheduler.Event, from, to string) {
	t.Helper()
	next(t, events, scheduler.Disconnected{})
	subscribedAt(t, events, to)
	if connected(t, from) {
		t.Errorf("still connected at %s, which does not lead", from)
	}
}

func subscribedAt(t *testing.T, events <-chan scheduler.Event, master string) {
	t.Helper()
	select {
	case ev := <-events:
		if _, ok := ev.(scheduler.Subscribed); !ok {
			t.Fatalf("got %v", ev)
		}
	case <-time.After(time.Minute):
		t.Fatalf("not subscribed at %s", master)
	}
	if !connected(t, master) {
		t.Errorf("not connected at %s", master)
	}
}

func next(t *testing.T, events <-chan scheduler.Event, want scheduler.Event) {
	t.Helper()
	select {
	case got := <-events:
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	case <-time.After(time.Minute):
		t.Fatalf("waited in vain for %v", want)
	}
}

// inZooKeeper is a configuration by which masters are found below /mesos.
func inZooKeeper(server, credentials string) Config {
	// As the flag's own splitting leaves it: the second server is never there.
	cfg := configFor("zk://"+credentials+server, "127.0.0.1:1/mesos")
	cfg.ConnectTimeout = 30 * time.Second
	return cfg
}

func TestLeaderIsFollowedAsTheMastersElectItInZooKeeper(t *testing.T) {
	t.Parallel()
	server := newZooKeeper(t)
	masters := server.client()
	first, firstInfo := newMesos(t)
	second, secondInfo := newMesos(t)

	_, events, _ := start(t, inZooKeeper(server.address, ""), "")
	makePath(t, masters, "/mesos")
	makePath(t, masters, "/mesos/log_replicas") // as the masters' registry has it there
	leader := register(t, masters, firstInfo, zk.WorldACL(zk.PermAll))
	subscribedAt(t, events, first)

	register(t, masters, secondInfo, zk.WorldACL(zk.PermAll))
	if err := masters.Delete(leader, -1); err != nil {
		t.Fatal(err)
	}
	followed(t, events, first, second)
}

func TestLostZooKeeperLeavesTheSubscriptionAloneUntilAnotherMasterLeads(t *testing.T) {
	t.Parallel()
	server := newZooKeeper(t)
	masters := server.client()
	first, firstInfo := newMesos(t)
	second, secondInfo := newMesos(t)
	makePath(t, masters, "/mesos")
	register(t, masters, firstInfo, zk.WorldACL(zk.PermAll))
	_, events, _ := start(t, inZooKeeper(server.address, ""), "")
	subscribedAt(t, events, first)

	server.kill()
	server.start() // its sessions are gone, and so is the path
	if len(events) != 0 || !connected(t, first) {
		t.Errorf("without ZooKeeper: %v", <-events)
	}
	masters = server.client()
	makePath(t, masters, "/mesos")
	register(t, masters, secondInfo, zk.WorldACL(zk.PermAll))
	followed(t, events, first, second)
}

func TestZooKeeperIsShownThePasswordAndNobodyElseIs(t *testing.T) {
	t.Parallel()
	server := newZooKeeper(t)
	masters := server.client()
	if err := masters.AddAuth("digest", []byte("mesos:s3c/ret")); err != nil {
		t.Fatal(err)
	}
	first, info := newMesos(t)
	acl := zk.DigestACL(zk.PermAll, "mesos", "s3c/ret")
	if _, err := masters.Create("/mesos", nil, 0, acl); err != nil {
		t.Fatal(err)
	}
	register(t, masters, info, acl)

	wrong := inZooKeeper(server.address, "mesos:gu3ss@")
	wrong.ConnectTimeout = time.Second
	_, _, ended := start(t, wrong, "")
	err := <-ended
	if err == nil || !strings.Contains(err.Error(), "ZooKeeper asks for other credentials") || strings.Contains(err.Error(), "gu3ss") {
		t.Errorf("with a wrong password: %v", err)
	}
	_, events, _ := start(t, inZooKeeper(server.address, "mesos:s3c/ret@"), "")
	subscribedAt(t, events, first)
}

func TestSearchInZooKeeperSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	server := newZooKeeper(t)
	masters := server.client()
	search := func() string {
		cfg := inZooKeeper(server.address, "")
		cfg.ConnectTimeout = time.Second
		_, _, ended := start(t, cfg, "")
		return fmt.Sprint(<-ended)
	}
	for _, step := range []struct {
		create, data string
		want         string
	}{
		{"", "", "there is no /mesos in ZooKeeper yet"},
		{"/mesos", "", "no master is registered there now"},
		{"/mesos/info_0000000001", "", "older than Mesos 0.24"},
		{"/mesos/json.info_0000000002", "{}", "cannot parse what the leading master registered as json.info_0000000002"},
	} {
		if step.create != "" {
			if _, err := masters.Create(step.create, []byte(step.data), 0, zk.WorldACL(zk.PermAll)); err != nil {
				t.Fatal(err)
			}
		}
		if got := search(); !strings.Contains(got, step.want) || !strings.Contains(got, "--mesos-master=zk://"+server.address) {
			t.Errorf("got %s, want %s", got, step.want)
		}
	}
	server.kill()
	if got := search(); !strings.Contains(got, zk.ErrNoServer.Error()) {
		t.Errorf("without a server: %s", got)
	}
}

func TestURLsOfZooKeeper(t *testing.T) {
	for text, want := range map[string]string{
		"zk://a:1,b,[::1]:3/mesos":  "zk://a:1,b:2181,[::1]:3/mesos",
		"zk://u:p@s@a:1/prod/mesos": "zk://a:1/prod/mesos",
		"zk://a:1/mesos/":           "zk://a:1/mesos",
		"zk://a:1":                  "lacks the path",
		"zk://a:1/":                 "lacks the path",
		"zk:///mesos":               "is not HOST:PORT",
		"zk://a:x/mesos":            "is not HOST:PORT",
		"zk://a:1,,b:2/mesos":       "is not HOST:PORT",
		"zk://s3cret@a:1/mesos":     "USER:PASSWORD",
	} {
		z, err := parseZooKeeper(text)
		got := fmt.Sprint(err)
		if err == nil {
			got = z.String()
		}
		if !strings.Contains(got, want) || strings.Contains(got, "s3cret") {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

func TestZooKeeperURLSurvivesTheSplittingOfItsFlag(t *testing.T) {
	var cfg Config
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	cfg.AddFlags(fs)
	if err := fs.Parse([]string{"--mesos-master=zk://u:p,w@a:1,b:2/mesos"}); err != nil {
		t.Fatal(err)
	}
	d, err := cfg.detector()
	if err != nil {
		t.Fatal(err)
	}
	want := &zooKeeper{servers: []string{"a:1", "b:2"}, credentials: "u:p,w", path: "/mesos", scheme: "http"}
	if diff := cmp.Diff(want, d, cmp.AllowUnexported(zooKeeper{})); diff != "" {
		t.Error(diff)
	}
}

func TestMastersAreReadFromAFile(t *testing.T) {
	for content, want := range map[string][]string{
		"zk://mesos:s3c,ret@a:1,b:2/mesos\n": {"a:1", "b:2"},
		" m1:5050,https://m2\n":              {"m1:5050", "m2:5050"},
	} {
		cfg := parsed(t, "file://"+writeFile(t, content))
		if diff := cmp.Diff(want, cfg.Peers()); diff != "" {
			t.Errorf("%q: %s", content, diff)
		}
		m, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if z, ok := m.detector.(*zooKeeper); ok && z.credentials != "mesos:s3c,ret" {
			t.Errorf("%q: ZooKeeper is shown %q", content, z.credentials)
		}
	}
	for master, want := range map[string]string{
		"file://masters":                       "absolute path",
		"file:///nowhere/masters":              "no such file",
		"file://" + writeFile(t, "\n"):         "is empty",
		"file://" + writeFile(t, "file:///a"):  "nothing beside it",
		"file://" + writeFile(t, "u:s3cret@a"): "--mesos-secret-file",
		"file:///a,b:5050":                     "no such file",
	} {
		if _, err := New(parsed(t, master)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--mesos-master") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v, want %s", master, err, want)
		}
	}
}

// No error, log or framework may show ZooKeeper's password, whatever is wrong.
func TestPasswordOfZooKeeperIsNotShown(t *testing.T) {
	var cfg Config
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	cfg.AddFlags(fs)
	if err := fs.Parse([]string{"--mesos-master=zk://mesos:\"s3cret@127.0.0.1:1/mesos"}); err != nil {
		t.Errorf("the flag: %v", err)
	}
	lines := logged(t)
	log.SetLevel(log.DebugLevel)
	t.Cleanup(func() { log.SetLevel(log.InfoLevel) })
	arguments := os.Args
	os.Args = append(slices.Clone(arguments), "--mesos-master="+strings.Join(cfg.Masters, ","))
	t.Cleanup(func() { os.Args = arguments })
	cfg.ConnectTimeout = 300 * time.Millisecond
	_, _, ended := start(t, cfg, "")
	err := <-ended
	warned := false
	for _, line := range append(lines(), fmt.Sprint(err)) {
		warned = warned || strings.Contains(line, "--mesos-master=file:///PATH")
		if strings.Contains(line, "s3cret") {
			t.Error(line)
		}
	}
	if !warned {
		t.Errorf("no warning of a password in the command line: %v", lines())
	}
}

func TestLowestSequenceLeads(t *testing.T) {
	got, err := leadingOf([]string{"json.info_0000000010", "log_replicas", "info_0000000001", "json.info_0000000009", "json.info_x"})
	if err != nil || got != "json.info_0000000009" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAddressOfARegisteredMaster(t *testing.T) {
	const modern = `{"pid":"master@10.0.0.1:5050","address":{"hostname":"m.example","ip":"10.0.0.2","port":5051}}`
	for _, c := range []struct{ info, scheme, want string }{
		{modern, "http", "http://10.0.0.2:5051/api/v1/scheduler"},
		{modern, "https", "https://m.example:5051/api/v1/scheduler"},
		{`{"pid":"master@10.0.0.1:5050"}`, "http", "http://10.0.0.1:5050/api/v1/scheduler"},
	} {
		if got, err := urlOf([]byte(c.info), c.scheme); err != nil || got != c.want {
			t.Errorf("%s by %s: got %s, %v", c.info, c.scheme, got, err)
		}
	}
}
