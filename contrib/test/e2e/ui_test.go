package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/browser"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// browserShowsTheCluster opens the pages as the administrator, and uses them.
func browserShowsTheCluster(t *testing.T, c *scratch.Cluster) {
	link, err := c.WebLink(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := browser.Open(t, link)
	b.Await("What Kubernetes runs")
	if at := b.Location(); strings.Contains(at, "key") {
		t.Errorf("the key stays in the address: %s", at)
	}
	linkIsGoodOnce(t, link)
	b.Await("all ready")
	b.Check("overview")
	b.Open("/pods?q=shown", "live")

	p := pod("shown", "/bin/busybox --install -s /bin; printf '"+hostileOutput+"'; i=0; while :; do i=$((i+1)); echo line $i of shown; sleep 1; done")
	p = create(t, c, p)
	// Nobody reloads the page.
	b.Until(`[...document.querySelectorAll("tbody tr")].some((r) => r.innerText.includes("shown") && r.innerText.includes("Running"))`)
	b.Check("pods")
	b.Do(chromedp.KeyEvent("j"), chromedp.KeyEvent(kb.Enter))
	b.Await("Mesos task")
	b.Await(string(p.UID) + ".")
	b.Check("pod")
	b.Go("/pods/default/shown?tab=logs")
	// The log is followed: its last line in sight is soon another one.
	const last = `Math.max(...[...(document.querySelector(".lines")?.innerText ?? "").matchAll(/line (\d+) of shown/g)].map((m) => Number(m[1])))`
	b.Until(last + " > 0")
	b.Until(fmt.Sprintf("(window.before ??= %s) < %s", last, last))
	hostileOutputIsText(b, `[...document.querySelectorAll(".lines .line")].find((l) => l.innerText.includes("evil"))`)
	b.Check("log")
	b.Open("/pods/default/shown?tab=yaml", "nodeName: ")
	b.Check("YAML")
	shell(b)
	b.Open("/resources", "CustomResourceDefinition")
	b.Check("kinds")
	b.Open("/resources/core/v1/nodes", "Ready")
	b.Check("nodes")

	b.Open("/pods/default/shown", "Mesos task")
	b.Press(".actions", "Delete")
	b.Await("Nothing will make it again")
	b.Check("dialog")
	b.Press("dialog", "Delete")
	b.Await("is being deleted")
	err = scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error {
		if _, err := c.Kube.CoreV1().Pods("default").Get(ctx, "shown", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("pod shown: %w", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	keptInTheBrowser(b)
	workloadInTheBrowser(b, c)
	cordonsTheNode(b)
	pageOfAKubeconfig(t, c)
}

// hostileOutput is what a program writes that wants the page or the terminal to do something. It is an argument of printf.
const hostileOutput = `evil <img src=x onerror=pwned=1>\033]52;c;cHduZWQ=\007\033]0;taken\007\033]8;;javascript:pwned=1\007link\033]8;;\007\n`

// hostileOutputIsText fails the test if the output, which is in an element, is more than text.
func hostileOutputIsText(b *browser.Tab, element string) {
	b.Helper()
	b.Until(element + ` !== undefined`)
	if said := browser.Eval[string](b, element+`.innerText.replaceAll("\u00a0", " ")`); !strings.Contains(said, "evil <img src=x onerror=pwned=1>link") {
		b.Errorf("hostile output is shown as %q", said)
	}
	if browser.Eval[bool](b, `"pwned" in window || document.title.includes("taken") || document.querySelector("main :is(img, script, a[href^=javascript])") !== null`) {
		b.Error("the page does what a program's output says")
	}
}

// keptInTheBrowser reads the log of the pod that is gone, metrics, and what the scheduler knows of Mesos.
func keptInTheBrowser(b *browser.Tab) {
	b.Helper()
	b.Open("/logs?pod=shown", " of shown\nline ") // the pod is gone
	b.Check("logs")
	b.Open("/metrics", "CPU of all nodes")
	b.Until(`document.querySelector(".chart canvas") !== null`)
	b.Check("metrics")
	b.Open("/metrics?tab=targets", "k8sm-scheduler")
	b.Open("/metrics?tab=alerts", "PodsWaiting")
	for path, text := range map[string]string{"/mesos": "k8sm", "/nodes": "Nodes", "/offers": "Offers", "/queue": "Queue"} {
		b.Open(path, text)
		b.Check(path)
	}
}

// workloadInTheBrowser makes a Deployment of YAML, scales and deletes it.
func workloadInTheBrowser(b *browser.Tab, c *scratch.Cluster) {
	b.Helper()
	deployments := c.Kube.AppsV1().Deployments("default")
	b.Open("/create", "Create from YAML")
	write := func(replicas string) {
		b.Until(`document.querySelector(".cm-content") !== null`)
		b.Do(chromedp.Focus(chromedp.CSS(".cm-content")), chromedp.KeyEvent("a", chromedp.KeyModifiers(chromedp.ModifierCtrl)))
		b.Insert(fmt.Sprintf(
			`{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "browsed"}, "spec": {"replicas": %s, "selector": {"matchLabels": {"app": "browsed"}},
"template": {"metadata": {"labels": {"app": "browsed"}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": %q, "imagePullPolicy": "Never",
"command": ["/bin/busybox", "sleep", "1h"], "resources": {"requests": {"cpu": "50m", "memory": "16Mi"}}}]}}}}`, replicas, image))
	}
	write("-1")
	b.Press(".actions", "Review")
	b.Await("spec.replicas: Invalid value: -1") // and nothing is made
	b.Check("field errors")
	write("1")
	b.Press(".actions", "Review")
	b.Await("will be made in default")
	if _, err := deployments.Get(b.Context(), "browsed", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		b.Errorf("it is there before anybody has agreed: %v", err)
	}
	b.Press(".actions", "Apply")
	b.Await("Deployment browsed is there")
	b.Open("/workloads/deployments/default/browsed", "The pod is available")
	b.Check("workload")
	b.Press(".actions", "Scale")
	b.Until(`document.querySelector("dialog input") !== null`)
	b.Do(chromedp.SetValue(chromedp.CSS("dialog input"), ""), chromedp.SendKeys(chromedp.CSS("dialog input"), "2"))
	b.Await("One more pod is made")
	b.Press("dialog", "Scale")
	b.Await("All 2 pods are available")
	b.Press(".actions", "Delete")
	b.Press("dialog", "Delete")
	err := scratch.Until(b.Context(), time.Minute, func(ctx context.Context) error {
		if _, err := deployments.Get(ctx, "browsed", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("deployment browsed: %w", err)
		}
		return nil
	})
	if err != nil {
		b.Error(err)
	}
	for path, text := range map[string]string{"/workloads": "Deployments", "/events": "ScalingReplicaSet"} {
		b.Open(path, text)
		b.Check(path)
	}
}

// shell types into a shell in the pod.
func shell(b *browser.Tab) {
	b.Helper()
	b.Open("/pods/default/shown?tab=terminal", "Terminal")
	b.Until(`document.querySelector(".xterm-rows")?.innerText.includes("#")`)
	b.Do(chromedp.KeyEvent("echo $((6*7)) of $HOSTNAME" + kb.Enter))
	b.Until(`document.querySelector(".xterm-rows").innerText.includes("42 of shown")`)
	b.Do(chromedp.KeyEvent("clear; printf '" + hostileOutput + "'" + kb.Enter))
	hostileOutputIsText(b, `[...document.querySelectorAll(".xterm-rows > div")].find((l) => l.innerText.startsWith("evil"))`)
	b.Do(chromedp.KeyEvent("stty size" + kb.Enter))
	// The shell knows how large the terminal is.
	b.Until(`/\n\s*[1-9]\d+ [1-9]\d+\s*\n/.test(document.querySelector(".xterm-rows").innerText.replaceAll("\u00a0", " "))`)
	b.Check("terminal")
}

// webClient is an HTTP client that keeps cookies.
func webClient(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
}

// logIn uses a link.
func logIn(t *testing.T, client *http.Client, link string) (code int) {
	t.Helper()
	base, key, _ := strings.Cut(link, "/#key=")
	response, err := client.Post(base+"/auth/key", "application/json", strings.NewReader(fmt.Sprintf(`{"secret": %q}`, key)))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

func linkIsGoodOnce(t *testing.T, link string) {
	t.Helper()
	if code := logIn(t, webClient(t), link); code != http.StatusUnauthorized {
		t.Errorf("the link is good again: %d", code)
	}
}

// pageOfAKubeconfig runs `km ui`, whose page only reads.
func pageOfAKubeconfig(t *testing.T, c *scratch.Cluster) {
	cmd := c.KM(within(t, 2*time.Minute), "ui", "--address=127.0.0.1:0", "--read-only", "--kubeconfig="+c.Kubeconfig())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("km ui ends with %v", err)
		}
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	link, found := strings.CutPrefix(strings.TrimSpace(line), "Web: ")
	if err != nil || !found {
		t.Fatalf("km ui prints %q, %v", line, err)
	}
	client := webClient(t)
	if code := logIn(t, client, link); code != http.StatusNoContent {
		t.Fatalf("the link gets %d", code)
	}
	base, _, _ := strings.Cut(link, "/#")
	response, err := client.Get(base + "/api/session")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var session struct {
		User     string
		ReadOnly bool
	}
	if err := json.NewDecoder(response.Body).Decode(&session); err != nil || session.User != "kubernetes-admin" || !session.ReadOnly {
		t.Errorf("the session is %+v, %v", session, err)
	}
	refused, err := client.Post(base+"/api/k8s/api/v1/namespaces", "application/json", strings.NewReader(`{"metadata": {"name": "never"}}`))
	if err != nil {
		t.Fatal(err)
	}
	defer refused.Body.Close()
	if said, _ := io.ReadAll(refused.Body); refused.StatusCode != http.StatusForbidden || !strings.Contains(string(said), "only reads") {
		t.Errorf("a write gets %d %s", refused.StatusCode, said)
	}
}
