package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
	certutil "k8s.io/client-go/util/cert"

	"github.com/k8sm/k8sm/api/certfile"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/statedir"
)

const (
	// shortLife is the life of the certificates below, the shortest that there is.
	shortLife = 30 * time.Second
	renewals  = 3
)

// load is calls that are made again and again while certificates are renewed.
type load struct {
	calls, cut atomic.Int64
	mu         sync.Mutex // guards problems
	problems   map[string]int
}

// did takes the result of a call. client-go closes a client's connections when its certificate has been renewed, as it does for
// kubelets; whoever has a call on one then makes it again. Anything else is a failure.
func (l *load) did(what string, err error) {
	l.calls.Add(1)
	if err == nil {
		return
	}
	for _, cut := range []string{"use of closed network connection", "client connection force closed", "http2: client connection lost", ": EOF", "connection reset"} {
		if strings.Contains(err.Error(), cut) {
			l.cut.Add(1)
			return
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.problems == nil {
		l.problems = map[string]int{}
	}
	l.problems[fmt.Sprintf("%s: %.300s", what, err)]++
}

// report fails the test for each problem. The load must have ended.
func (l *load) report(t *testing.T) {
	t.Helper()
	for problem, times := range l.problems {
		t.Errorf("%d times: %s", times, problem)
	}
	t.Logf("%d calls; %d were cut by client-go when it took a certificate over", l.calls.Load(), l.cut.Load())
}

// every calls do at intervals until ctx ends.
func (l *load) every(ctx context.Context, what string, interval time.Duration, do func(context.Context) error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		once, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := do(once)
		cancel()
		if ctx.Err() == nil {
			l.did(what, err)
		}
	}
}

// A process that does not take a renewed certificate over fails here: certificates end 30 s after they were made.
func TestCertificatesAreRenewedUnderLoad(t *testing.T) {
	transport.CertCallbackRefreshDuration = time.Second
	dir := statedir.Dir(t.TempDir())
	running := startChild(t, dir, childFlags+"=--cert-lifetime="+shortLife.String())
	admin := clientOf(t, restartingConfig(t, dir))
	kubelet := startKubelet(t, dir, admin)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var l load
	var all sync.WaitGroup
	for what, do := range loads(t, dir, kubelet) {
		all.Go(func() { l.every(ctx, what, 100*time.Millisecond, do) })
	}
	awaitRenewals(t, dir)
	stop()
	all.Wait()
	l.report(t)
	if l.calls.Load() < 1000 || l.cut.Load() > 100 {
		t.Errorf("%d calls, of which %d were cut", l.calls.Load(), l.cut.Load())
	}
	testControllerManagerLives(t, admin)
	running.stop(t) // which fails if it has ended by itself
}

// restartingConfig is the administrator's, from files that are read again.
func restartingConfig(t *testing.T, dir statedir.Dir) *rest.Config {
	t.Helper()
	config, err := dir.Admin()
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// loads are calls with every certificate of the control plane.
func loads(t *testing.T, dir statedir.Dir, pod *corev1.Pod) map[string]func(context.Context) error {
	t.Helper()
	schedulerConfig, err := clientcmd.BuildConfigFromFlags("", dir.SchedulerKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	scheduler, admin := clientOf(t, schedulerConfig), clientOf(t, restartingConfig(t, dir))
	etcd, err := dir.SchedulerEtcd()
	if err != nil {
		t.Fatal(err)
	}
	front := rest.AnonymousClientConfig(restartingConfig(t, dir))
	front.CertFile, front.KeyFile = dir.Pair(statedir.FrontProxyClient)
	front.Impersonate = rest.ImpersonationConfig{}
	front.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return transport.NewAuthProxyRoundTripper("somebody", "", []string{"system:masters"}, nil, next)
	})
	proxied := clientOf(t, front)
	list := func(client kubernetes.Interface) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
			return err
		}
	}
	return map[string]func(context.Context) error{
		"the scheduler":     list(scheduler),
		"the administrator": list(admin),
		"the front proxy":   list(proxied),
		"an administrator who reads admin.kubeconfig": func(ctx context.Context) error {
			config, err := clientcmd.BuildConfigFromFlags("", dir.AdminKubeconfig())
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			return list(client)(ctx)
		},
		"a watch": func(ctx context.Context) error {
			seconds := int64(5)
			w, err := scheduler.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{TimeoutSeconds: &seconds})
			if err != nil {
				return err
			}
			defer w.Stop()
			for range w.ResultChan() {
			}
			return nil
		},
		"the API server, seen by a stranger": func(ctx context.Context) error { return shake(ctx, schedulerConfig.Host, dir.CA(), nil) },
		"etcd, seen by the scheduler": func(ctx context.Context) error {
			return shake(ctx, etcd.Endpoints[0], etcd.CAFile, certfile.NewPair(etcd.CertFile, etcd.KeyFile))
		},
		"the scheduler in etcd": func(ctx context.Context) error {
			store, err := state.Open(ctx, state.Config{Endpoints: etcd.Endpoints, CAFile: etcd.CAFile, CertFile: etcd.CertFile, KeyFile: etcd.KeyFile, Name: "k8sm"})
			if err != nil {
				return err
			}
			_, err = store.FrameworkID(ctx)
			return errors.Join(err, store.Close())
		},
		"the API server in etcd": func(ctx context.Context) error {
			_, err := admin.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "renewed-"}}, metav1.CreateOptions{})
			return err
		},
		"the API server at a kubelet": func(ctx context.Context) error {
			log, err := admin.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
			if err == nil && !strings.Contains(string(log), "a line") {
				err = fmt.Errorf("the log is %q", log)
			}
			return err
		},
	}
}

// shake makes a new connection and verifies the server's certificate.
func shake(ctx context.Context, url, caFile string, as *certfile.Pair) error {
	roots, err := certutil.NewPool(caFile)
	if err != nil {
		return err
	}
	config := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
	if as != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return as.Get() }
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", strings.TrimPrefix(url, "https://"))
	if err != nil {
		return err
	}
	return conn.Close()
}

// startKubelet serves what the API server reads of a pod's log, to callers with a certificate that is valid at that moment. It returns
// the pod.
func startKubelet(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) *corev1.Pod {
	t.Helper()
	secured := &tls.Config{ClientAuth: tls.RequireAnyClientCert, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		pair := kubeletPair(t, dir)
		return &pair, nil
	}}
	l, err := tls.Listen("tcp", "127.0.0.1:0", secured)
	if err != nil {
		t.Fatal(err)
	}
	callers, err := certfile.NewAuthorities(dir.CA())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		roots, err := callers.Pool()
		if err == nil {
			_, err = r.TLS.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, "a line\n")
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	createNode(t, dir, "renewed", "127.0.0.1")
	eventually(t, func(ctx context.Context) string {
		node, err := admin.CoreV1().Nodes().Get(ctx, "renewed", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(l.Addr().(*net.TCPAddr).Port)
		_, err = admin.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
		return problemOf(err)
	})
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "renewed"},
		Spec:       corev1.PodSpec{NodeName: "renewed", Containers: []corev1.Container{{Name: "one", Image: "one"}}},
	}
	eventually(t, func(ctx context.Context) string { // its service account comes first
		_, err := admin.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		return problemOf(err)
	})
	return pod
}

// kubeletPair is a serving certificate of the kubelets' CA.
func kubeletPair(t *testing.T, dir statedir.Dir) tls.Certificate {
	t.Helper()
	der, key := signedBy(t, dir.KubeletServingIssuer(), dir.KubeletServingCAKey(), &x509.Certificate{
		Subject: nodeSubject("renewed"), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	cas, err := dir.ForNodes()
	if err != nil {
		t.Fatal(err)
	}
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	for block, left := pem.Decode(cas.KubeletServingChain); block != nil; block, left = pem.Decode(left) {
		pair.Certificate = append(pair.Certificate, block.Bytes)
	}
	return pair
}

// awaitRenewals waits until each certificate below pki/ has been renewed some times.
func awaitRenewals(t *testing.T, dir statedir.Dir) {
	t.Helper()
	deadline := time.Now().Add(5 * shortLife)
	seen := map[string][]string{}
	for {
		missing := ""
		certs, err := dir.Certificates()
		if err != nil {
			t.Fatal(err)
		}
		for _, cert := range certs {
			if cert.Authority {
				continue
			}
			if serial := cert.SerialNumber.String(); !slices.Contains(seen[cert.Name], serial) {
				seen[cert.Name] = append(seen[cert.Name], serial)
			}
			if len(seen[cert.Name]) <= renewals {
				missing = fmt.Sprintf("%s was renewed %d times", cert.Name, len(seen[cert.Name])-1)
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(missing)
		}
		select {
		case <-t.Context().Done():
			return
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// testControllerManagerLives makes a namespace, which a controller manager completes.
func testControllerManagerLives(t *testing.T, admin kubernetes.Interface) {
	t.Helper()
	_, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "after"}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) string {
		_, err := admin.CoreV1().ConfigMaps("after").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return problemOf(err)
	})
}
