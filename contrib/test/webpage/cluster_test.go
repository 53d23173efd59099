package webpage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api/heldport"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/test/browser"
	"github.com/k8sm/k8sm/contrib/ui"
)

const root = "../../.."

// cluster is a control plane, a scheduler's status, and the web page of both.
type cluster struct {
	dir   statedir.Dir
	km    string   // the program
	flags []string // of the control plane
	// address is where the control plane serves its own page.
	address string
	rest    *rest.Config
	kube    kubernetes.Interface
	plane   *exec.Cmd
	mesos   *mesos
	page    *ui.Server
}

// start returns when the page can be opened.
func start(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{dir: statedir.Dir(t.TempDir()), address: fmt.Sprintf("127.0.0.1:%d", heldport.OfTest(t))}
	c.flags = []string{"--cluster-name=" + named, "--ui-address=" + c.address, fmt.Sprintf("--secure-port=%d", heldport.OfTest(t)), fmt.Sprintf("--etcd-port=%d", heldport.OfTest(t))}
	var err error
	if c.km, err = filepath.Abs(filepath.Join(root, "km")); err != nil {
		t.Fatal(err)
	}
	c.startPlane(t)
	if c.rest, err = clientcmd.BuildConfigFromFlags("", c.dir.AdminKubeconfig()); err != nil {
		t.Fatal(err)
	}
	c.rest.QPS, c.rest.Burst = 100, 200
	if c.kube, err = kubernetes.NewForConfig(c.rest); err != nil {
		t.Fatal(err)
	}
	c.mesos = &mesos{kube: c.kube}
	c.mesos.serve(t, c)
	c.page = c.serve(t, ui.Config{})
	return c
}

// serve runs a web page.
func (c *cluster) serve(t *testing.T, cfg ui.Config) *ui.Server {
	t.Helper()
	cfg.Address, cfg.Scheduler = "127.0.0.1:0", c.mesos.find
	page, err := ui.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := c.dir.Pair(statedir.APIServer)
	if err := page.Connect(c.rest, certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	run(t, page.Run)
	return page
}

// run runs a server until the test ends, or stop is called.
func run(t *testing.T, serve func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group errgroup.Group
	group.Go(func() error { return serve(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// startPlane starts the control plane and waits until it serves. It has the same ports each time.
func (c *cluster) startPlane(t *testing.T) {
	t.Helper()
	began := time.Now()
	// On loopback only it has no DNS, metrics and logs beside it.
	cmd := exec.Command(c.km, append([]string{"apiserver", "--state-dir=" + string(c.dir)}, c.flags...)...)
	said, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("cannot run km: %v; run make build", err)
	}
	ready, log := make(chan struct{}), &tail{}
	go log.read(said, ready)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the control plane's log ends with\n%s", log)
		}
	})
	c.plane = cmd
	select {
	case <-ready:
		t.Logf("the control plane is ready after %s", time.Since(began).Round(time.Millisecond))
	case <-time.After(2 * time.Minute):
		t.Fatal("the control plane is not ready after two minutes")
	}
}

// tail is the end of a program's log.
type tail struct {
	mu    sync.Mutex // guards lines
	lines []string
}

// read reads a log, and closes ready at the line that says so.
func (l *tail) read(from io.Reader, ready chan<- struct{}) {
	is := sync.OnceFunc(func() { close(ready) })
	for s := bufio.NewScanner(from); s.Scan(); {
		if strings.Contains(s.Text(), "the control plane is ready") {
			is()
		}
		l.mu.Lock()
		l.lines = append(l.lines[max(0, len(l.lines)-20):], s.Text())
		l.mu.Unlock()
	}
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// killPlane ends the control plane as a crash would.
func (c *cluster) killPlane(t *testing.T) {
	t.Helper()
	if err := c.plane.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.plane.Wait()
}

// signalPlane stops the control plane's process, or lets it go on.
func (c *cluster) signalPlane(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := c.plane.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// link is a link for the administrator.
func (c *cluster) link(t *testing.T, page *ui.Server) string {
	t.Helper()
	link, err := page.Link(t.Context(), c.rest)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// token makes a service account of the namespace default and returns a token of it. roles are ClusterRoles that it has, in the namespaces
// that are named; in all with "". Each lets it list pods. The API server knows them when token returns.
func (c *cluster) token(t *testing.T, name string, roles map[string]string) string {
	t.Helper()
	accounts := c.kube.CoreV1().ServiceAccounts("default")
	if _, err := accounts.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: name}}
	for ns, role := range roles {
		ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}
		var err error
		if ns == "" {
			_, err = c.kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: subjects, RoleRef: ref}, metav1.CreateOptions{})
		} else {
			_, err = c.kube.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: subjects, RoleRef: ref}, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "system:serviceaccount:default:" + name, ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Verb: "list", Resource: "pods"},
		}}
		eventually(t, func(ctx context.Context) error {
			said, err := c.kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if err == nil && !said.Status.Allowed {
				err = fmt.Errorf("the API server does not know that %s is %s in %q", name, role, ns)
			}
			return err
		})
	}
	token, err := accounts.CreateToken(t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return token.Status.Token
}

// logIn logs in on the log-in page.
func logIn(b *browser.Tab, token string) {
	b.Helper()
	b.Await("Log in to the cluster")
	browser.Eval[any](b, `document.querySelector("input[type=password]").focus()`)
	b.Insert(token)
	b.Keys("\r")
	b.Until(`document.querySelector(".login") === null`)
}

// eventually waits until there is no problem.
func eventually(t *testing.T, check func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

// gone is an error until something is not found.
func gone(err error) error {
	if err == nil {
		return errors.New("it is still there")
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
