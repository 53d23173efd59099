package e2e

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/client"
	"github.com/miekg/dns"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// place is where somebody tries something, and as which user of the machine.
type place struct {
	uid       int
	namespace string // path of the network namespace; "" is the test's own
	// master is how the control plane's machine is reached from there; "" if this is the machine. masters are its addresses in the
	// cluster's own words.
	master  string
	masters []string
}

// nobodyUID is a user that owns nothing.
const nobodyUID = 65534

// do calls what on a thread that is in the place, which ends afterwards.
func (p place) do(what func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // the main thread must not end: wait on it while another one does the work
			defer runtime.UnlockOSThread()
			done <- p.do(what)
			return
		}
		err := p.enter()
		if err == nil {
			err = what()
		}
		done <- err
	}()
	return <-done
}

// enter moves the thread to the place. The system calls are raw, because those of package syscall move all threads.
func (p place) enter() error {
	if p.namespace != "" {
		namespace, err := netns.GetFromPath(p.namespace)
		if err != nil {
			return err
		}
		defer namespace.Close()
		if err := netns.Set(namespace); err != nil {
			return err
		}
	}
	if p.uid == 0 {
		return nil
	}
	id := uintptr(p.uid)
	for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS}, {unix.SYS_SETRESGID, id, id, id}, {unix.SYS_SETRESUID, id, id, id}} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return errno
		}
	}
	return nil
}

// read reads a file as the place's user.
func (p place) read(path string) (data []byte, err error) {
	err = p.do(func() (err error) {
		data, err = os.ReadFile(path)
		return err
	})
	if errors.Is(err, fs.ErrPermission) {
		return nil, refusedf("%v", err)
	}
	return data, err
}

// readAny succeeds if one of the files can be read.
func (p place) readAny(paths []string) error {
	if len(paths) == 0 {
		return errors.New("there is no file to try")
	}
	for _, path := range paths {
		_, err := p.read(path)
		if err == nil {
			return nil
		}
		if !errors.Is(err, errRefused) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return refusedf("none of %d files can be read", len(paths))
}

// dial connects from the place. What cannot be reached is refused.
func (p place) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	if host, port, err := net.SplitHostPort(address); err == nil && p.master != "" && slices.Contains(p.masters, host) {
		address = net.JoinHostPort(p.master, port)
	}
	err = p.do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, refusedf("%v", err)
	}
	return conn, nil
}

// get requests a URL from the place, with a client certificate if there is one. It does not verify the server.
func (p place) get(ctx context.Context, url string, config *tls.Config) error {
	if config == nil {
		config = &tls.Config{}
	}
	config.InsecureSkipVerify = true // the server is known; who asks is what is tried
	transport := &http.Transport{DialContext: p.dial, TLSClientConfig: config, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Do(request)
	if err != nil && strings.Contains(err.Error(), "tls: certificate required") {
		return refusedf("%v", err)
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return refusedf("%s", response.Status)
	}
	return fmt.Errorf("%s answers %s", url, response.Status)
}

// clientOf is the client certificate of a kubeconfig, read from the place; none if it cannot be read.
func (p place) clientOf(kubeconfig string) (*tls.Config, error) {
	data, err := p.read(kubeconfig)
	if errors.Is(err, errRefused) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.NewClientConfigFromBytes(data)
	if err != nil {
		return nil, err
	}
	rest, err := config.ClientConfig()
	if err != nil {
		return nil, err
	}
	files := rest.TLSClientConfig
	for text, path := range map[*[]byte]string{&files.CertData: files.CertFile, &files.KeyData: files.KeyFile} {
		if path != "" {
			if !filepath.IsAbs(path) {
				path = filepath.Join(filepath.Dir(kubeconfig), path)
			}
			if *text, err = p.read(path); err != nil {
				return nil, err
			}
		}
	}
	pair, err := tls.X509KeyPair(files.CertData, files.KeyData)
	return &tls.Config{Certificates: []tls.Certificate{pair}}, err
}

// getAs is get with the identity of a kubeconfig, if the place can read it.
func (p place) getAs(ctx context.Context, kubeconfig, url string) error {
	config, err := p.clientOf(kubeconfig)
	if err != nil {
		return err
	}
	return p.get(ctx, url, config)
}

// resolve asks a DNS server for the API server's service, by UDP.
func (p place) resolve(ctx context.Context, server string) error {
	conn, err := p.dial(ctx, "udp", server)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := &dns.Client{Timeout: time.Second}
	answer, _, err := client.ExchangeWithConnContext(ctx, new(dns.Msg).SetQuestion("kubernetes.default.svc.cluster.local.", dns.TypeA), &dns.Conn{Conn: conn})
	if err != nil {
		return refusedf("%v", err)
	}
	if answer.Rcode == dns.RcodeRefused {
		return refusedf("REFUSED")
	}
	if len(answer.Answer) != 1 {
		return fmt.Errorf("the answer is %v", answer)
	}
	return nil
}

// scene is the cluster as an attacker on a machine or in the network sees it.
type scene struct {
	c    *scratch.Cluster
	dir  string
	etcd string // URL
	dns  string // HOST:PORT
	api  string // URL
	// v1beta1 is the URL of the nodes in the API of 2014.
	v1beta1 string
	node    *corev1.Node
}

func newScene(t *testing.T, c *scratch.Cluster, dir string) scene {
	t.Helper()
	s := scene{c: c, dir: dir, api: c.REST.Host}
	node, err := c.Kube.CoreV1().Nodes().Get(t.Context(), targetNode, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.node = node
	servers, err := c.Kube.DiscoveryV1().EndpointSlices("kube-system").List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kube-dns"})
	if err != nil || len(servers.Items) == 0 {
		t.Fatalf("the DNS has no EndpointSlice: %v", err)
	}
	slice := servers.Items[0]
	s.dns = net.JoinHostPort(slice.Endpoints[0].Addresses[0], fmt.Sprint(*slice.Ports[0].Port))
	s.etcd = "https://" + c.EtcdAddress()
	s.v1beta1 = "https://" + v1beta1At(t, dir) + "/api/v1beta1/minions"
	return s
}

// v1beta1At is where the cluster serves the API of 2014, as "host:port".
func v1beta1At(t *testing.T, dir string) string {
	t.Helper()
	record, err := statedir.Dir(dir).Gateway()
	if err != nil {
		t.Fatal(err)
	}
	return record.Address
}

// from completes a place on a machine of the cluster other than the control plane's.
func (s scene) from(p place) place {
	host := s.apiHost()
	p.masters = []string{host, "127.0.0.1"}
	if p.master == "" {
		p.master = host
	}
	return p
}

func (s scene) apiHost() string {
	host, _, _ := net.SplitHostPort(strings.TrimPrefix(s.api, "https://"))
	return host
}

// nodeFile is a file in the directory of the node.
func (s scene) nodeFile(name string) string {
	return filepath.Join(s.dir, "nodes", "k8sm", targetNode, name)
}

// kubelet is the URL of the node's kubelet.
func (s scene) kubelet(path string) string {
	return atNode(s.node, fmt.Sprint(s.node.Status.DaemonEndpoints.KubeletEndpoint.Port), path)
}

// onMinion is the URL of the node's minion.
func onMinion(node *corev1.Node, path string) string {
	return atNode(node, node.Annotations[api.AnnotationStatusPort], path)
}

// atNode is the URL of a path at a port of the node's first InternalIP.
func atNode(node *corev1.Node, port, path string) string {
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			return "https://" + net.JoinHostPort(address.Address, port) + path
		}
	}
	return ""
}

// filesBelow lists the regular files below the directories, as root.
func filesBelow(t *testing.T, dirs ...string) (files []string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) { // it was removed meanwhile
				return nil
			}
			if err == nil && entry.Type().IsRegular() {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// environments are the files in /proc that show the environment of the cluster's processes with the roles.
func environments(t *testing.T, c *scratch.Cluster, roles ...string) (files []string) {
	t.Helper()
	for _, role := range roles {
		for _, pid := range running(t, c, role) {
			files = append(files, fmt.Sprintf("/proc/%d/environ", pid))
		}
	}
	return files
}

// machinesKeepWhatThePageSays tries the tables of the machines.
func machinesKeepWhatThePageSays(t *testing.T, c *scratch.Cluster, dir string) {
	if err := os.Chmod(dir, 0o755); err != nil { // what is below must not depend on it
		t.Fatal(err)
	}
	s := newScene(t, c, dir)
	tryTable(t, "On the control plane's machine", map[string]place{"user": {uid: nobodyUID}, "root": {}}, s.onControlPlane(t))
	namespace := namespaceOf(t, targetNode)
	tryTable(t, "On an agent's machine", map[string]place{
		"user, or task without root": s.from(place{uid: nobodyUID, namespace: namespace}), "task as root": s.from(place{namespace: namespace}),
	}, s.onAgent(t))
}

func (s scene) onControlPlane(t *testing.T) map[string]attempt[place] {
	t.Helper()
	files := filesBelow(t, filepath.Join(s.dir, "pki"), filepath.Join(s.dir, "etcd"), filepath.Join(s.dir, "log"))
	above, err := filepath.Glob(filepath.Join(s.dir, "*.*"))
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, above...)
	memory := environments(t, s.c, "up")
	admin := filepath.Join(s.dir, "admin.kubeconfig")
	return map[string]attempt[place]{
		"read a file of the state directory": func(_ context.Context, as place) error { return as.readAny(files) },
		"read the environment of km":         func(_ context.Context, as place) error { return as.readAny(memory) },
		"read from etcd":                     s.readEtcd,
		"see the API server's health":        func(ctx context.Context, as place) error { return as.get(ctx, s.api+"/readyz", nil) },
		"read from the API server":           func(ctx context.Context, as place) error { return as.getAs(ctx, admin, s.api+"/api/v1/nodes") },
		"see the scheduler's health":         func(ctx context.Context, as place) error { return as.get(ctx, s.status("/healthz"), nil) },
		"read the scheduler's metrics, tasks and profiles": func(ctx context.Context, as place) error {
			return cmp.Or(as.getAs(ctx, admin, s.status("/debug/tasks")), as.getAs(ctx, admin, s.status("/debug/pprof/goroutine")))
		},
		"see the web page's health": func(ctx context.Context, as place) error { return as.get(ctx, s.page("/healthz"), nil) },
		"read from the web page without a log-in": func(ctx context.Context, as place) error {
			return as.getAs(ctx, admin, s.page("/api/k8s/api/v1/nodes"))
		},
		"read from the metrics server":  func(ctx context.Context, as place) error { return as.getAs(ctx, admin, s.usage()) },
		"resolve names of the cluster":  func(ctx context.Context, as place) error { return as.resolve(ctx, s.dns) },
		"read from the v1beta1 API":     func(ctx context.Context, as place) error { return as.getAs(ctx, admin, s.v1beta1) },
		"read the Mesos master's state": s.readMesos,
	}
}

func (s scene) status(path string) string { return "https://" + s.c.StatusAddress() + path }

// page is a path of the web page's server.
func (s scene) page(path string) string {
	return fmt.Sprintf("https://127.0.0.1:%d%s", s.c.Ports()["8443"], path)
}

// usage is where the metrics server tells how much the nodes use.
func (s scene) usage() string {
	return "https://" + net.JoinHostPort(s.apiHost(), fmt.Sprint(s.c.Ports()["10260"])) + usagePath
}

// readMesos reads the master's state with the secret of km up's principal, if the place can read that.
func (s scene) readMesos(ctx context.Context, as place) error {
	secret, err := as.read(filepath.Join(s.dir, "mesos", "secret"))
	if err != nil && !errors.Is(err, errRefused) {
		return err
	}
	return as.get(ctx, strings.Replace(s.c.Master, "http://", "http://k8sm:"+strings.TrimSpace(string(secret))+"@", 1)+"/state", nil)
}

// readEtcd reads etcd's version with the API server's certificate, if the place can read that.
func (s scene) readEtcd(ctx context.Context, as place) error {
	var config *tls.Config
	cert, err := as.read(filepath.Join(s.dir, "pki", "apiserver-etcd-client.crt"))
	if err == nil {
		key, err := as.read(filepath.Join(s.dir, "pki", "apiserver-etcd-client.key"))
		if err != nil {
			return err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return err
		}
		config = &tls.Config{Certificates: []tls.Certificate{pair}}
	} else if !errors.Is(err, errRefused) {
		return err
	}
	return as.get(ctx, s.etcd+"/version", config)
}

func (s scene) onAgent(t *testing.T) map[string]attempt[place] {
	t.Helper()
	files := filesBelow(t, s.nodeFile(""))
	memory := environments(t, s.c, "minion", "kubelet", "proxy", "warden")
	node := s.nodeFile("kubeconfig")
	dockerSocket := strings.TrimPrefix(s.c.Engines[targetNode].DaemonHost(), "unix://")
	connect := func(ctx context.Context, as place, socket string) error {
		conn, err := as.dial(ctx, "unix", socket)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	return map[string]attempt[place]{
		"read a file of the node's directory":                 func(_ context.Context, as place) error { return as.readAny(files) },
		"read the environment of the minion and its children": func(_ context.Context, as place) error { return as.readAny(memory) },
		"connect to the container runtime":                    func(ctx context.Context, as place) error { return connect(ctx, as, s.nodeFile("cri.sock")) },
		"connect to Docker Engine":                            func(ctx context.Context, as place) error { return connect(ctx, as, dockerSocket) },
		"act as the node in the API": func(ctx context.Context, as place) error {
			return as.getAs(ctx, node, s.api+"/api/v1/nodes/"+targetNode)
		},
		"read a Secret that a pod of the node uses": func(ctx context.Context, as place) error {
			return as.getAs(ctx, node, s.api+"/api/v1/namespaces/default/secrets/"+targetSecret)
		},
		"read a Secret that no pod of the node uses": func(ctx context.Context, as place) error {
			return as.getAs(ctx, node, s.api+"/api/v1/namespaces/kube-system/secrets/"+systemSecret)
		},
		"read all Secrets":             func(ctx context.Context, as place) error { return as.getAs(ctx, node, s.api+"/api/v1/secrets") },
		"read from the node's kubelet": func(ctx context.Context, as place) error { return as.getAs(ctx, node, s.kubelet("/pods")) },
		"read the minion's metrics":    func(ctx context.Context, as place) error { return as.getAs(ctx, node, onMinion(s.node, "/metrics")) },
		"read from etcd":               func(ctx context.Context, as place) error { return as.get(ctx, s.etcd+"/version", nil) },
		"see the API server's health":  func(ctx context.Context, as place) error { return as.get(ctx, s.api+"/readyz", nil) },
		"read the Mesos agent's state": func(ctx context.Context, as place) error {
			return as.get(ctx, "http://"+s.node.Annotations[api.AnnotationAgentAddress]+"/state", nil)
		},
		"resolve names of the cluster": func(ctx context.Context, as place) error { return as.resolve(ctx, s.dns) },
	}
}

// namespaceOf is the path of a node's network namespace.
func namespaceOf(t *testing.T, node string) string {
	t.Helper()
	namespaces, err := filepath.Glob("/run/netns/k8sm-*-" + node) // those that tests of machines make have another cluster's name
	if err != nil || len(namespaces) != 1 {
		t.Fatalf("namespaces of %s: %v %v", node, namespaces, err)
	}
	return namespaces[0]
}

// networkAllowsWhatThePageSays tries the table of the network.
func networkAllowsWhatThePageSays(t *testing.T, c *scratch.Cluster, dir string, p *corev1.Pod) {
	s := newScene(t, c, dir)
	tryTable(t, "From the network", map[string]place{
		"an agent's machine": s.from(place{namespace: namespaceOf(t, "node-2")}),
		"a pod":              s.from(place{namespace: podNamespace(t, c.Engines[p.Spec.NodeName], c, p)}),
		"elsewhere":          s.from(elsewhere(t)),
	}, map[string]attempt[place]{
		"see the API server's health":   func(ctx context.Context, as place) error { return as.get(ctx, s.api+"/readyz", nil) },
		"read from the API server":      func(ctx context.Context, as place) error { return as.get(ctx, s.api+"/api/v1/nodes", nil) },
		"read from the v1beta1 API":     func(ctx context.Context, as place) error { return as.get(ctx, s.v1beta1, nil) },
		"read from etcd":                func(ctx context.Context, as place) error { return as.get(ctx, s.etcd+"/version", nil) },
		"see the scheduler's health":    func(ctx context.Context, as place) error { return as.get(ctx, s.status("/healthz"), nil) },
		"see the web page's health":     func(ctx context.Context, as place) error { return as.get(ctx, s.page("/healthz"), nil) },
		"read from the metrics server":  func(ctx context.Context, as place) error { return as.get(ctx, s.usage(), nil) },
		"read from a kubelet":           func(ctx context.Context, as place) error { return as.get(ctx, s.kubelet("/pods"), nil) },
		"see a kubelet's health":        func(ctx context.Context, as place) error { return as.get(ctx, s.kubelet("/healthz"), nil) },
		"read a minion's metrics":       func(ctx context.Context, as place) error { return as.get(ctx, onMinion(s.node, "/metrics"), nil) },
		"read the Mesos master's state": func(ctx context.Context, as place) error { return as.get(ctx, s.c.Master+"/state", nil) },
		"resolve names of the cluster":  func(ctx context.Context, as place) error { return as.resolve(ctx, s.dns) },
	})
}

// podNamespace is the path of a pod's network namespace.
func podNamespace(t *testing.T, docker *client.Client, c *scratch.Cluster, p *corev1.Pod) string {
	t.Helper()
	for id := range containers(t, c, p) {
		info, err := docker.ContainerInspect(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("/proc/%d/ns/net", info.State.Pid)
	}
	t.Fatalf("pod %s has no container", p.Name)
	return ""
}

// elsewhere makes a machine outside of the cluster's networks, whose gateway is this machine. It is gone when the test ends.
func elsewhere(t *testing.T) (there place) {
	t.Helper()
	const this, that = "198.51.100.1", "198.51.100.2"
	err := place{}.do(func() error { // the thread that makes it ends
		namespace, err := netns.New()
		if err == nil {
			there = place{namespace: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), namespace), master: this}
			t.Cleanup(func() { _ = namespace.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	inside := "nsenter --net=" + there.namespace + " "
	for _, command := range []string{
		"ip link add kme0 type veth peer name kme1", "ip addr add " + this + "/30 dev kme0", "ip link set kme0 up", "ip link set kme1 netns " + there.namespace,
		inside + "ip addr add " + that + "/30 dev kme1", inside + "ip link set kme1 up", inside + "ip route add default via " + this,
	} {
		words := strings.Fields(command)
		if out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "link", "delete", "kme0").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return there
}
