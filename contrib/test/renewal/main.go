// Command renewal runs a cluster whose certificates last minutes, lets all parts of it be used while each certificate is renewed three times,
// and stops it. It fails if a call fails, a process has restarted, or a log tells of a refused certificate. `make renewal` runs it. With
// --rotate-ca, it replaces all CAs instead: `make rotation`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/transport"
	certutil "k8s.io/client-go/util/cert"

	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

const (
	busybox = "/bin/busybox"
	image   = "k8sm.io/test/busybox:latest"
	// lines is a script that writes one a second, and ends at once when asked to.
	lines = "trap 'exit 0' TERM; while :; do echo a line; /bin/busybox sleep 1 & wait $!; done"
)

func main() {
	km := flag.String("km", "./km", "the km `program`")
	life := flag.Duration("cert-lifetime", 90*time.Second, "how long certificates last")
	renewals := flag.Int("renewals", 3, "how often each must have been renewed")
	limit := flag.Duration("timeout", 10*time.Minute, "give up after this `time`")
	rotate := flag.Bool("rotate-ca", false, "replace all CAs, of certificates that last a year")
	inPod := flag.Bool("in-pod", false, "be the program of a pod: call the API server again and again")
	flag.Parse()
	if *inPod {
		callFromPod()
		return
	}
	transport.CertCallbackRefreshDuration = 5 * time.Second

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	test := test{km: *km, flags: []string{"--cert-lifetime=" + life.String()}, during: func(used *cluster, ctx context.Context, dir statedir.Dir) error {
		return used.whileRenewed(ctx, dir, *renewals)
	}}
	if *rotate {
		test.flags, test.during, test.restarts, test.refusals = nil, (*cluster).rotate, []string{"kubelet"}, 1
	}
	if err := test.run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "renewal: %v\n", err)
		os.Exit(1)
	}
}

// test is what is done to a cluster that is used.
type test struct {
	km       string
	flags    []string
	during   func(*cluster, context.Context, statedir.Dir) error
	restarts []string // the processes that may restart
	refusals int      // that the test itself provokes
}

func (t test) run(ctx context.Context) (err error) {
	path, err := os.MkdirTemp("", "k8sm-renewal-")
	if err != nil {
		return err
	}
	dir := statedir.Dir(path)
	defer func() { err = errors.Join(err, os.RemoveAll(path)) }()
	c, err := scratch.Start(ctx, scratch.Config{KM: t.km, Dir: path, Flags: t.flags})
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		err = errors.Join(err, c.Stop(last))
		if err == nil {
			err = complaints(filepath.Join(path, "log", "km.log"), t.refusals)
		}
	}()
	if err != nil {
		return err
	}
	used, err := prepare(ctx, c, dir)
	if err != nil {
		return err
	}
	before, err := processes(c.PID())
	if err != nil {
		return err
	}
	if err := t.during(used, ctx, dir); err != nil {
		return err
	}
	after, err := processes(c.PID())
	if err != nil {
		return err
	}
	for _, all := range []map[int]string{before, after} {
		maps.DeleteFunc(all, func(_ int, role string) bool { return slices.Contains(t.restarts, role) })
	}
	if !maps.Equal(before, after) {
		return fmt.Errorf("processes have restarted: there were %v, and are %v", before, after)
	}
	if err := used.schedule(ctx, "after"); err != nil {
		return fmt.Errorf("after all: %w", err)
	}
	fmt.Printf("%d calls succeeded, and %d processes ran on\n", used.calls, len(before))
	return nil
}

// cluster is used while its certificates are renewed.
type cluster struct {
	*scratch.Cluster
	kube kubernetes.Interface

	mu       sync.Mutex // guards the rest
	calls    int
	problems []string
}

// prepare starts a pod, and with it a minion, a kubelet and a kube-proxy.
func prepare(ctx context.Context, c *scratch.Cluster, dir statedir.Dir) (*cluster, error) {
	config, err := dir.Admin()
	if err != nil {
		return nil, err
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	used := &cluster{Cluster: c, kube: kube}
	if err := c.Usable(ctx); err != nil {
		return nil, err
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	if err := scratch.ImportImage(ctx, c.Docker, image, busybox, program); err != nil {
		return nil, err
	}
	if err := used.schedule(ctx, "steady"); err != nil {
		return nil, err
	}
	return used, scratch.Until(ctx, 3*time.Minute, func(ctx context.Context) error { // the kubelet's serving certificate comes last
		return errors.Join(used.km(ctx, "kubectl", "logs", "steady"), used.km(ctx, "kubectl", "top", "nodes"), used.km(ctx, "logs", "steady"))
	})
}

// schedule runs a pod, and waits until it runs.
func (c *cluster) schedule(ctx context.Context, name string) error {
	grace := int64(1)
	_, err := c.kube.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{{
			Name: "main", Image: image, ImagePullPolicy: corev1.PullNever, Command: []string{busybox, "sh", "-c", lines},
		}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return scratch.Until(ctx, 3*time.Minute, func(ctx context.Context) error {
		pod, err := c.kube.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err == nil && pod.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("pod %s is %s", name, pod.Status.Phase)
		}
		return err
	})
}

// remove removes a pod, and waits until it is gone.
func (c *cluster) remove(ctx context.Context, name string) error {
	if err := c.kube.CoreV1().Pods("default").Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return scratch.Until(ctx, 3*time.Minute, func(ctx context.Context) error {
		list, err := c.kube.CoreV1().Pods("default").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("pod %s is still there", name)
		}
		return err
	})
}

// km runs a command of km.
func (c *cluster) km(ctx context.Context, args ...string) error {
	out, err := c.KM(ctx, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("km %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// uses are what is done again and again: each goes by other certificates.
func (c *cluster) uses() map[string]func(context.Context) error {
	command := func(args ...string) func(context.Context) error {
		return func(ctx context.Context) error { return c.km(ctx, args...) }
	}
	return map[string]func(context.Context) error{
		"the log of a pod":       command("kubectl", "logs", "steady", "--tail=1"),
		"a program in a pod":     command("kubectl", "exec", "steady", "--", busybox, "true"),
		"the scheduler's status": command("nodes"),
		"stored logs":            command("logs", "steady", "--since=1m"),
		"metrics of nodes":       command("kubectl", "top", "nodes"),
		"etcd":                   command("etcdctl", "get", "--prefix", "--keys-only", "/k8sm/"),
		"a pod comes and goes": func(ctx context.Context) error {
			if err := c.schedule(ctx, "passing"); err != nil {
				return err
			}
			return c.remove(ctx, "passing")
		},
		"a node that is ready": func(ctx context.Context) error {
			list, err := c.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			for _, condition := range list.Items[0].Status.Conditions {
				if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
					return fmt.Errorf("the node is not ready: %s", condition.Message)
				}
			}
			return nil
		},
	}
}

// whileRenewed uses the cluster until each certificate has been renewed.
func (c *cluster) whileRenewed(ctx context.Context, dir statedir.Dir, renewals int) error {
	return c.whileUsed(ctx, c.uses(), func() error { return awaitRenewals(ctx, dir, renewals) })
}

// whileUsed uses the cluster until do returns.
func (c *cluster) whileUsed(ctx context.Context, uses map[string]func(context.Context) error, do func() error) error {
	using, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() {
		for using.Err() == nil {
			for what, use := range uses {
				c.did(using, what, use(using))
			}
		}
	})
	err := do()
	stop()
	all.Wait()
	if len(c.problems) > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d calls failed:\n%s", len(c.problems), c.calls, strings.Join(c.problems, "\n")))
	}
	return err
}

func (c *cluster) did(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	if err != nil {
		c.problems = append(c.problems, fmt.Sprintf("%s %s: %v", time.Now().Format(time.TimeOnly), what, err))
	}
}

// awaitRenewals waits until each certificate of the control plane and of the node has had so many successors.
func awaitRenewals(ctx context.Context, dir statedir.Dir, renewals int) error {
	seen, last := map[string]map[string]bool{}, -1
	return scratch.Until(ctx, time.Hour, func(context.Context) error {
		files, err := certificates(dir)
		if err != nil {
			return err
		}
		least, of := renewals, ""
		for name, file := range files {
			certs, err := certutil.CertsFromFile(file)
			if err != nil {
				return err
			}
			if seen[name] == nil {
				seen[name] = map[string]bool{}
			}
			seen[name][certs[0].SerialNumber.String()] = true
			if n := len(seen[name]) - 1; n < least {
				least, of = n, name
			}
		}
		if least != last {
			last = least
			fmt.Printf("%s each of %d certificates was renewed %d times\n", time.Now().Format(time.TimeOnly), len(files), least)
		}
		if of != "" {
			return fmt.Errorf("%s was renewed %d times", of, least)
		}
		return nil
	})
}

// certificates are the files of the control plane's and the node's certificates.
func certificates(dir statedir.Dir) (map[string]string, error) {
	all, err := dir.Certificates()
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for _, c := range all {
		if !c.Authority {
			files[c.Name] = c.File
		}
	}
	current, err := filepath.Glob(filepath.Join(string(dir), "nodes", "*", "*", "pki", "kubelet-*-current.pem"))
	if err != nil || len(current) != 2 {
		return nil, fmt.Errorf("the node has the certificates %q: %w", current, err)
	}
	for _, file := range current {
		files[filepath.Base(file)] = file
	}
	return files, nil
}

// processes are those of km on this machine, by process id.
func processes(pid int) (map[int]string, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil, err
	}
	found := map[int]string{}
	for _, p := range all {
		line, err := p.CmdLine()
		if err != nil || len(line) < 2 || !strings.HasPrefix(filepath.Base(line[0]), "km") && filepath.Base(line[0]) != "exe" {
			continue
		}
		if i := slices.IndexFunc(line, func(arg string) bool { return slices.Contains(roles, arg) }); i > 0 {
			found[p.PID] = line[i]
		}
	}
	if found[pid] != "up" {
		return nil, fmt.Errorf("km up is not among the processes %v", found)
	}
	return found, nil
}

// roles are the commands of km that go on as long as the cluster does.
var roles = []string{"up", "dns", "metrics", "logstore", "minion", "kubelet", "proxy"}

// refused is what a log says of a certificate that was not renewed.
var refused = regexp.MustCompile(`certificate has expired|certificate signed by unknown authority|bad certificate|expired certificate|cannot renew`)

// complaints looks for more of that than is expected.
func complaints(log string, expected int) error {
	text, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if refused.MatchString(line) {
			found = append(found, line)
		}
	}
	if len(found) > expected {
		return fmt.Errorf("the log tells of certificates %d times, the first is: %s", len(found), found[0])
	}
	return nil
}
