package mesos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"
	log "github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/api/backoff"
)

const (
	zkScheme      = "zk://"
	zkDefaultPort = "2181"
	zkSession     = 10 * time.Second // the session timeout, the same as that of Mesos
	zkPause       = 5 * time.Second  // the longest between two sessions

	// Names of masters' nodes begin with these and end in a sequence number. The lowest leads.
	registeredJSON  = "json.info_"
	registeredProto = "info_" // of Mesos up to 0.23
)

// zooKeeper is a Detector that follows the leading master as the masters elect it
// (https://mesos.apache.org/documentation/latest/high-availability/).
type zooKeeper struct {
	servers     []string // HOST:PORT
	credentials string   // USER:PASSWORD, or ""
	path        string   // parent of the masters' nodes
	scheme      string   // of the masters' API, which ZooKeeper does not know
}

// parseZooKeeper parses zk://[USER:PASSWORD@]HOST[:PORT],.../PATH. Its errors show no password.
func parseZooKeeper(text string) (*zooKeeper, error) {
	z := &zooKeeper{scheme: "http"}
	rest := strings.TrimPrefix(text, zkScheme)
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		z.credentials, rest = rest[:i], rest[i+1:]
		if user, _, ok := strings.Cut(z.credentials, ":"); !ok || user == "" {
			return nil, fmt.Errorf("--mesos-master %s…@%s: write user and password as USER:PASSWORD@", zkScheme, rest)
		}
	}
	servers, node, _ := strings.Cut(rest, "/")
	z.path = path.Clean("/" + node)
	if z.path == "/" {
		return nil, fmt.Errorf("--mesos-master %s%s lacks the path of the masters in ZooKeeper, such as /mesos", zkScheme, rest)
	}
	for _, server := range strings.Split(servers, ",") {
		host, port, err := net.SplitHostPort(server)
		if err != nil {
			host, port = strings.Trim(server, "[]"), zkDefaultPort
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil || host == "" || strings.ContainsAny(host, "/[] \t") {
			return nil, fmt.Errorf("--mesos-master %s%s: %q is not HOST:PORT of a ZooKeeper server", zkScheme, rest, server)
		}
		z.servers = append(z.servers, net.JoinHostPort(host, port))
	}
	return z, nil
}

// String returns the URL without the credentials.
func (z *zooKeeper) String() string { return zkScheme + strings.Join(z.servers, ",") + z.path }

// warnOfArguments warns if the command line shows the password.
func (z *zooKeeper) warnOfArguments(arguments []string) {
	if z.credentials != "" && slices.ContainsFunc(arguments, func(argument string) bool { return strings.Contains(argument, z.credentials) }) {
		log.Warn("every user of this machine can read ZooKeeper's password in the command line (ps): write the URL of --mesos-master to a file " +
			"that only the scheduler may read, and give --mesos-master=file:///PATH")
	}
}

// Detect implements Detector.
func (z *zooKeeper) Detect(ctx context.Context, tell func([]string, error)) {
	begin := backoff.Between(firstPause, zkPause)
	pauses := begin
	for {
		err := z.watch(ctx, func(urls []string, why error) {
			pauses = begin
			tell(urls, why)
		})
		if ctx.Err() != nil {
			return
		}
		tell(nil, z.explain(err))
		select {
		case <-ctx.Done():
			return
		case <-time.After(pauses.Step()):
		}
	}
}

// watch calls tell with what one ZooKeeper session sees, until that is lost.
func (z *zooKeeper) watch(ctx context.Context, tell func([]string, error)) error {
	life, cut := context.WithCancel(context.WithoutCancel(ctx)) // of the sockets, which outlive ctx to close the session
	defer cut()
	conn, events, err := zk.Connect(z.servers, zkSession, zk.WithLogger(zkLog{}), zk.WithLogInfo(false), zk.WithDialer(dialer(life)))
	if err != nil {
		return err
	}
	end := func() { conn.Close(); cut() }
	defer func() {
		end()
		for range events { // until the connection's goroutines have ended
		}
	}()
	defer context.AfterFunc(ctx, end)()
	if z.credentials != "" {
		if err := conn.AddAuth("digest", []byte(z.credentials)); err != nil {
			return err
		}
	}
	for {
		url, changed, err := z.look(conn)
		switch {
		case changed == nil:
			return err
		case err != nil:
			tell(nil, z.explain(err))
		default:
			tell([]string{url}, nil)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-changed:
			if e.Err != nil {
				return e.Err
			}
		}
	}
}

// look returns the URL of the leading master, or why there is none. changed gets an event when it is time to look again; it is nil
// if the session is lost.
func (z *zooKeeper) look(conn *zk.Conn) (url string, changed <-chan zk.Event, err error) {
	children, _, changed, err := conn.ChildrenW(z.path)
	if errors.Is(err, zk.ErrNoNode) {
		return z.awaitPath(conn)
	}
	if err != nil {
		return "", nil, err
	}
	leader, err := leadingOf(children)
	if err != nil {
		return "", changed, err
	}
	data, _, err := conn.Get(path.Join(z.path, leader))
	switch {
	case errors.Is(err, zk.ErrNoNode):
		return "", changed, errNoMaster // it has just left, and changed gets an event
	case err != nil:
		return "", nil, err
	}
	url, err = urlOf(data, z.scheme)
	if err != nil {
		return "", changed, fmt.Errorf("cannot parse what the leading master registered as %s: %w", leader, err)
	}
	return url, changed, nil
}

// awaitPath is look for a path that does not exist.
func (z *zooKeeper) awaitPath(conn *zk.Conn) (url string, changed <-chan zk.Event, err error) {
	exists, _, changed, err := conn.ExistsW(z.path)
	switch {
	case err != nil:
		return "", nil, err
	case exists:
		return z.look(conn)
	}
	return "", changed, fmt.Errorf("there is no %s in ZooKeeper yet: no master has ever registered there", z.path)
}

var errNoMaster = errors.New("no master is registered there now")

// leadingOf returns the name of the leading master's node: that with the lowest sequence number.
func leadingOf(children []string) (string, error) {
	leader, lowest, old := "", int64(0), false
	for _, name := range children {
		old = old || strings.HasPrefix(name, registeredProto)
		number, ok := strings.CutPrefix(name, registeredJSON)
		sequence, err := strconv.ParseInt(number, 10, 64)
		if ok && err == nil && (leader == "" || sequence < lowest) {
			leader, lowest = name, sequence
		}
	}
	switch {
	case leader != "":
		return leader, nil
	case old:
		return "", errors.New("the masters registered there are older than Mesos 0.24; k8sm needs the v1 API of Mesos 1.0 or newer")
	}
	return "", errNoMaster
}

// urlOf returns the URL of the scheduler API of the master in a MasterInfo in JSON. It has the master's address, or for https the
// master's name if there is one, as certificates are for names.
func urlOf(data []byte, scheme string) (string, error) {
	var info struct {
		PID     string `json:"pid"` // master@IP:PORT
		Address struct {
			Hostname string `json:"hostname"`
			IP       string `json:"ip"`
			Port     int    `json:"port"`
		} `json:"address"`
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return "", err
	}
	host := info.Address.IP
	if scheme == "https" && info.Address.Hostname != "" {
		host = info.Address.Hostname
	}
	master := net.JoinHostPort(host, strconv.Itoa(info.Address.Port))
	if host == "" || info.Address.Port == 0 {
		_, master, _ = strings.Cut(info.PID, "@")
	}
	if _, _, err := net.SplitHostPort(master); err != nil {
		return "", fmt.Errorf("it has neither an address nor a pid: %w", err)
	}
	return scheme + "://" + master + schedulerPath, nil
}

func (z *zooKeeper) explain(err error) error {
	if errors.Is(err, zk.ErrNoAuth) || errors.Is(err, zk.ErrAuthFailed) {
		return fmt.Errorf("cannot find the leading Mesos master at %s: ZooKeeper asks for other credentials, given as %sUSER:PASSWORD@…: %w",
			z, zkScheme, err)
	}
	return fmt.Errorf("cannot find the leading Mesos master at %s: %w", z, err)
}

// dialer connects to a ZooKeeper server. The end of ctx closes the connections.
func dialer(ctx context.Context) zk.Dialer {
	return func(network, address string, timeout time.Duration) (net.Conn, error) {
		conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		return socket{conn}, nil
	}
}

// socket is a connection to a ZooKeeper server with a read timeout of at most zkSession. The client's own timeout for a server that
// accepts connections but does not answer is several times as long, while another server might answer.
type socket struct{ net.Conn }

// SetReadDeadline implements net.Conn.
func (s socket) SetReadDeadline(t time.Time) error {
	if latest := time.Now().Add(zkSession); t.After(latest) {
		t = latest
	}
	return s.Conn.SetReadDeadline(t)
}

// zkLog logs the ZooKeeper client's messages at debug: they are about attempts that it repeats.
type zkLog struct{}

// Printf implements zk.Logger.
func (zkLog) Printf(format string, args ...any) { log.Debugf("ZooKeeper: "+format, args...) }
