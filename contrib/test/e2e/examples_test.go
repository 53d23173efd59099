package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// importWeb makes the image of the examples' pods.
func importWeb(t *testing.T, c *scratch.Cluster) {
	t.Helper()
	web, err := os.ReadFile(program(t, "build/web"))
	if err != nil {
		t.Fatal(err)
	}
	if err := scratch.ImportImage(within(t, time.Minute), c.Docker, "k8sm.io/examples/web:latest", "/web", web); err != nil {
		t.Fatal(err)
	}
}

// kubectl runs a command that has to succeed, and returns what it prints.
func kubectl(t *testing.T, c *scratch.Cluster, args ...string) string {
	t.Helper()
	out, err := c.KM(within(t, 2*time.Minute), append([]string{"kubectl"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// applied creates what an example's manifest has, and returns what deletes it.
func applied(t *testing.T, c *scratch.Cluster, manifest string) (deleted func()) {
	t.Helper()
	file := filepath.Join(root, "contrib/examples", manifest)
	kubectl(t, c, "apply", "-f", file)
	return func() { kubectl(t, c, "delete", "--wait=false", "-f", file) }
}

// releases rolls the example's shop out, while a customer asks it all the time.
func releases(t *testing.T, c *scratch.Cluster) {
	importWeb(t, c)
	defer applied(t, c, "shop.yaml")()
	kubectl(t, c, "rollout", "status", "deployment/shop", "--timeout=50s")
	customer := comes(t, c, "shop")

	t.Run("a new release replaces the old one, and a broken one does not", func(t *testing.T) { rolledOut(t, c, customer) })
	t.Run("undo brings releases back", func(t *testing.T) { undone(t, c, customer) })
	t.Run("a canary gets its share", func(t *testing.T) { canary(t, c, customer) })
	if failures := customer.leaves(); len(failures) > 0 {
		t.Errorf("requests failed meanwhile: %v", failures)
	}
}

func rolledOut(t *testing.T, c *scratch.Cluster, customer *customer) {
	customer.awaitOnly(t, "v1")
	kubectl(t, c, "set", "env", "deployment/shop", "RELEASE=v2")
	kubectl(t, c, "annotate", "deployment/shop", "kubernetes.io/change-cause=release v2", "--overwrite")
	kubectl(t, c, "rollout", "status", "deployment/shop", "--timeout=50s")
	customer.awaitOnly(t, "v2")

	kubectl(t, c, "set", "image", "deployment/shop", "web=k8sm.io/examples/web:mistyped")
	kubectl(t, c, "annotate", "deployment/shop", "kubernetes.io/change-cause=release v3", "--overwrite")
	out, err := c.KM(within(t, time.Minute), "kubectl", "rollout", "status", "deployment/shop", "--timeout=5s").CombinedOutput()
	if err == nil || !containsAll(string(out), []string{"1 out of 3 new replicas have been updated", "timed out"}) {
		t.Errorf("the status of a rollout that cannot work: %v\n%s", err, out)
	}
	customer.awaitOnly(t, "v2")
}

func undone(t *testing.T, c *scratch.Cluster, customer *customer) {
	historyIs(t, c, "1 release v1", "2 release v2", "3 release v3")
	kubectl(t, c, "rollout", "undo", "deployment/shop")
	kubectl(t, c, "rollout", "status", "deployment/shop", "--timeout=50s")
	customer.awaitOnly(t, "v2")
	historyIs(t, c, "1 release v1", "3 release v3", "4 release v2")
	kubectl(t, c, "rollout", "undo", "deployment/shop", "--to-revision=1")
	kubectl(t, c, "rollout", "status", "deployment/shop", "--timeout=50s")
	customer.awaitOnly(t, "v1")
	historyIs(t, c, "3 release v3", "4 release v2", "5 release v1")
}

// historyIs compares the revisions that kubectl shows, each with its cause.
func historyIs(t *testing.T, c *scratch.Cluster, want ...string) {
	t.Helper()
	out := kubectl(t, c, "rollout", "history", "deployment/shop")
	var got []string
	for _, row := range regexp.MustCompile(`(?m)^(\d+) +(\S.*\S)\s*$`).FindAllStringSubmatch(out, -1) {
		got = append(got, row[1]+" "+row[2])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s:\n%s", diff, out)
	}
}

func canary(t *testing.T, c *scratch.Cluster, customer *customer) {
	kubectl(t, c, "scale", "deployment/shop", "--replicas=9")
	deleted := applied(t, c, "shop-canary.yaml")
	kubectl(t, c, "rollout", "status", "deployment/shop", "--timeout=50s")
	kubectl(t, c, "rollout", "status", "deployment/shop-canary", "--timeout=50s")
	// Of 1000 requests 100 go to one pod of ten, with a standard deviation of 9.5. By chance it is one test of 30,000 that fails.
	if shares := shares(t, c); shares["v1"]+shares["v2"] != 1000 || shares["v2"] < 60 || shares["v2"] > 140 {
		t.Errorf("nine pods of v1 and one of v2 share 1000 requests as %v", shares)
	}
	deleted()
	customer.awaitOnly(t, "v1")
}

// shares runs the example that counts answers, and returns what its log says of each release.
func shares(t *testing.T, c *scratch.Cluster) map[string]int {
	t.Helper()
	defer applied(t, c, "shop-shares.yaml")()
	kubectl(t, c, "wait", "--for=condition=Complete", "job/shop-shares", "--timeout=50s")
	log := kubectl(t, c, "logs", "job/shop-shares")
	t.Logf("shares:\n%s", log)
	shares := map[string]int{}
	for line := range strings.Lines(log) {
		count, answer, _ := strings.Cut(strings.TrimSpace(line), "  ")
		number, err := strconv.Atoi(count)
		if err != nil {
			t.Fatalf("the log has the line %q", line)
		}
		shares[answer] = number
	}
	return shares
}

// customer asks a service from the node, by the service's address, 50 times a second.
type customer struct {
	leave context.CancelFunc
	left  chan struct{} // closed when it has left

	mu       sync.Mutex // guards what follows
	latest   []string   // answers, up to 20
	failures []string   // and when they happened
}

// comes sends a customer to a service, once that answers. The customer leaves when the test ends.
func comes(t *testing.T, c *scratch.Cluster, name string) *customer {
	t.Helper()
	s, err := c.Kube.CoreV1().Services("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	v := &customer{leave: cancel, left: make(chan struct{})}
	t.Cleanup(func() { v.leaves() })
	url := "http://" + at(s.Spec.ClusterIP, s.Spec.Ports[0].Port) + "/release"
	err = scratch.Until(t.Context(), 20*time.Second, func(ctx context.Context) error {
		_, err := asks(ctx, url)
		return err
	})
	if err != nil {
		t.Fatalf("service %s does not answer: %v", name, err)
	}
	go func() {
		defer close(v.left)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				v.hears(asks(ctx, url))
			case <-ctx.Done():
				return
			}
		}
	}()
	return v
}

// asks opens a connection of its own, so that the service chooses a pod.
func asks(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := (&http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return strings.TrimSpace(string(body)), err
}

func (v *customer) hears(answer string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case errors.Is(err, context.Canceled):
	case err != nil:
		v.failures = append(v.failures, time.Now().Format("15:04:05.000 ")+err.Error())
	default:
		v.latest = append(v.latest, answer)
		v.latest = v.latest[max(0, len(v.latest)-20):]
	}
}

// leaves ends the requests and returns those that failed.
func (v *customer) leaves() []string {
	v.leave()
	<-v.left
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.failures
}

// awaitOnly waits until the last 20 answers are from one release.
func (v *customer) awaitOnly(t *testing.T, release string) {
	t.Helper()
	v.mu.Lock()
	v.latest = nil
	v.mu.Unlock()
	err := scratch.Until(t.Context(), 30*time.Second, func(context.Context) error {
		v.mu.Lock()
		defer v.mu.Unlock()
		seen := map[string]int{}
		for _, answer := range v.latest {
			seen[answer]++
		}
		if seen[release] != 20 {
			return fmt.Errorf("the last answers are %v, want %s", seen, release)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// autoscaled puts load on the example's busy pod, until it has become three, and takes the load away again.
func autoscaled(t *testing.T, c *scratch.Cluster) {
	importWeb(t, c)
	defer applied(t, c, "busy.yaml")()
	kubectl(t, c, "rollout", "status", "deployment/busy", "--timeout=50s")
	kubectl(t, c, "wait", "hpa/busy", "--for=condition=ScalingActive", "--timeout=90s")
	if pods := kubectl(t, c, "get", "deployment", "busy", "-o", "jsonpath={.status.replicas}"); pods != "1" {
		t.Errorf("without load there are %s pods", pods)
	}
	deleted := applied(t, c, "busy-load.yaml")
	kubectl(t, c, "wait", "deployment/busy", "--for=jsonpath={.status.readyReplicas}=3", "--timeout=100s")
	t.Logf("under load:\n%s%s", kubectl(t, c, "get", "hpa", "busy"), kubectl(t, c, "top", "pods", "-l", "app=busy"))
	deleted()
	kubectl(t, c, "wait", "deployment/busy", "--for=jsonpath={.status.replicas}=1", "--timeout=100s")
}
