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
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// browser is a tab of Chromium that has opened the web page.
type browser struct {
	*testing.T
	ctx  context.Context
	base string // the page's URL, without a path
	axe  string // axe-core, which finds what people with disabilities can't use (https://github.com/dequelabs/axe-core)
}

// openBrowser starts Chromium, and opens a link.
func openBrowser(t *testing.T, link string) *browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.IgnoreCertErrors, chromedp.WindowSize(1440, 900))
	ctx, cancel := chromedp.NewExecAllocator(within(t, 5*time.Minute), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	base, _, _ := strings.Cut(link, "/#")
	b := &browser{T: t, ctx: ctx, base: base, axe: axe(t)}
	// Each page keeps what the policy forbade it.
	_, err := chromedp.Call(ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{
		Source: `window.violations = []; document.addEventListener("securitypolicyviolation", (e) => violations.push(e.violatedDirective + " " + e.blockedURI + " " + e.sample));`,
	})
	if err != nil {
		t.Fatalf("cannot start chromium: %v; run make test-deps", err)
	}
	b.do(chromedp.Navigate(link))
	return b
}

// axe is axe-core's script. It comes with the packages for tests.
func axe(t *testing.T) string {
	t.Helper()
	fetch := exec.CommandContext(t.Context(), "go", "run", "-trimpath", "./contrib/ui/bundle", "-dev")
	fetch.Dir = root
	fetch.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := fetch.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	script, err := os.ReadFile(filepath.Join(root, "contrib/ui/web/node_modules/axe-core/axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	return string(script)
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.Fatalf("the browser: %v; it shows:\n%s", err, b.text())
	}
}

// text is what the page shows.
func (b *browser) text() string {
	text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.body.innerText`)) // for a message only
	return text
}

// open goes to a path of the page and waits for a text on it.
func (b *browser) open(path, text string) {
	b.Helper()
	b.do(chromedp.Navigate(b.base + path))
	b.await(text)
}

// await waits until the page shows a text.
func (b *browser) await(text string) {
	b.Helper()
	b.until(fmt.Sprintf("document.body.innerText.includes(%q)", text))
}

// until waits for a condition in JavaScript.
func (b *browser) until(condition string) {
	b.Helper()
	if _, err := chromedp.Run(b.ctx, chromedp.Poll[bool](condition, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(time.Minute))); err != nil {
		b.Fatalf("the page never had %s: %v; it shows:\n%s", condition, err, b.text())
	}
}

// press clicks the button of this text.
func (b *browser) press(within, text string) {
	b.Helper()
	find := fmt.Sprintf(`[...document.querySelectorAll(%q)].find((b) => b.textContent.trim() === %q)`, within+" button", text)
	b.until(find + " !== undefined")
	if _, err := chromedp.Run(b.ctx, chromedp.Evaluate[any](find+".click()")); err != nil {
		b.Fatal(err)
	}
}

// check fails the test if the policy forbade the page something, or somebody can't use it, by light and by dark colors.
func (b *browser) check(name string) {
	b.Helper()
	b.until(`document.querySelector("h1") !== null`) // the page is there, not only what is around it
	for scheme, rules := range map[string]string{"light": `{}`, "dark": `{runOnly: ["color-contrast"]}`} {
		_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := chromedp.Run(b.ctx, chromedp.Evaluate[any](b.axe+";0")); err != nil {
			b.Fatal(err)
		}
		found, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](
			`axe.run(`+rules+`).then((r) => r.violations.flatMap((v) => v.nodes.map((n) => v.id + " at " + n.target.join(" ") + ": " + n.failureSummary)))`, chromedp.EvalAwaitPromise))
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range found {
			b.Errorf("%s, %s: %s", name, scheme, f)
		}
	}
	forbidden, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](`violations`))
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range forbidden {
		b.Errorf("%s: the policy forbids %s", name, f)
	}
}

// browserShowsTheCluster opens the pages as the administrator, and uses them.
func browserShowsTheCluster(t *testing.T, c *scratch.Cluster) {
	link, err := c.WebLink(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := openBrowser(t, link)
	b.await("What Kubernetes runs")
	if at, err := chromedp.Run(b.ctx, chromedp.Location()); err != nil || strings.Contains(at, "key") {
		t.Errorf("the key stays in the address: %s, %v", at, err)
	}
	linkIsGoodOnce(t, link)
	b.await("all ready")
	b.check("overview")
	b.open("/pods?q=shown", "live")

	p := pod("shown", "/bin/busybox --install -s /bin; i=0; while :; do i=$((i+1)); echo line $i of shown; sleep 1; done")
	p = create(t, c, p)
	// Nobody reloads the page.
	b.until(`[...document.querySelectorAll("tbody tr")].some((r) => r.innerText.includes("shown") && r.innerText.includes("Running"))`)
	b.check("pods")
	b.do(chromedp.KeyEvent("j"), chromedp.KeyEvent(kb.Enter))
	b.await("Mesos task")
	b.await(string(p.UID) + ".")
	b.check("pod")
	b.do(chromedp.Navigate(b.base + "/pods/default/shown?tab=logs"))
	// The log is followed: its last line in sight is soon another one.
	const last = `Math.max(...[...(document.querySelector(".lines")?.innerText ?? "").matchAll(/line (\d+) of shown/g)].map((m) => Number(m[1])))`
	b.until(last + " > 0")
	b.until(fmt.Sprintf("(window.before ??= %s) < %s", last, last))
	b.check("log")
	b.open("/pods/default/shown?tab=yaml", "nodeName: ")
	b.check("YAML")
	shell(b)
	b.open("/resources", "CustomResourceDefinition")
	b.check("kinds")
	b.open("/resources/core/v1/nodes", "Ready")
	b.check("nodes")

	b.open("/pods/default/shown", "Mesos task")
	b.press(".actions", "Delete")
	b.await("Nothing will make it again")
	b.check("dialog")
	b.press("dialog", "Delete")
	b.await("is being deleted")
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

// keptInTheBrowser reads the log of the pod that is gone, metrics, and what the scheduler knows of Mesos.
func keptInTheBrowser(b *browser) {
	b.Helper()
	b.open("/logs?pod=shown", " of shown\nline ") // the pod is gone
	b.check("logs")
	b.open("/metrics", "CPU of all nodes")
	b.until(`document.querySelector(".chart canvas") !== null`)
	b.check("metrics")
	b.open("/metrics?tab=targets", "k8sm-scheduler")
	b.open("/metrics?tab=alerts", "PodsWaiting")
	for path, text := range map[string]string{"/mesos": "k8sm", "/nodes": "Nodes", "/offers": "Offers", "/queue": "Queue"} {
		b.open(path, text)
		b.check(path)
	}
}

// workloadInTheBrowser makes a Deployment of YAML, scales and deletes it.
func workloadInTheBrowser(b *browser, c *scratch.Cluster) {
	b.Helper()
	deployments := c.Kube.AppsV1().Deployments("default")
	b.open("/create", "Create from YAML")
	write := func(replicas string) {
		b.until(`document.querySelector(".cm-content") !== null`)
		b.do(chromedp.Focus(chromedp.CSS(".cm-content")), chromedp.KeyEvent("a", chromedp.KeyModifiers(chromedp.ModifierCtrl)))
		_, err := chromedp.Call(b.ctx, input.InsertText, input.InsertTextParams{Text: fmt.Sprintf(
			`{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "browsed"}, "spec": {"replicas": %s, "selector": {"matchLabels": {"app": "browsed"}},
"template": {"metadata": {"labels": {"app": "browsed"}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": %q, "imagePullPolicy": "Never",
"command": ["/bin/busybox", "sleep", "1h"], "resources": {"requests": {"cpu": "50m", "memory": "16Mi"}}}]}}}}`, replicas, image)})
		if err != nil {
			b.Fatal(err)
		}
	}
	write("-1")
	b.press(".actions", "Review")
	b.await("spec.replicas: Invalid value: -1") // and nothing is made
	b.check("field errors")
	write("1")
	b.press(".actions", "Review")
	b.await("will be made in default")
	if _, err := deployments.Get(b.Context(), "browsed", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		b.Errorf("it is there before anybody has agreed: %v", err)
	}
	b.press(".actions", "Apply")
	b.await("Deployment browsed is there")
	b.open("/workloads/deployments/default/browsed", "The pod is available")
	b.check("workload")
	b.press(".actions", "Scale")
	b.until(`document.querySelector("dialog input") !== null`)
	b.do(chromedp.SetValue(chromedp.CSS("dialog input"), ""), chromedp.SendKeys(chromedp.CSS("dialog input"), "2"))
	b.await("One more pod is made")
	b.press("dialog", "Scale")
	b.await("All 2 pods are available")
	b.press(".actions", "Delete")
	b.press("dialog", "Delete")
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
		b.open(path, text)
		b.check(path)
	}
}

// shell types into a shell in the pod.
func shell(b *browser) {
	b.Helper()
	b.open("/pods/default/shown?tab=terminal", "Terminal")
	b.until(`document.querySelector(".xterm-rows")?.innerText.includes("#")`)
	b.do(chromedp.KeyEvent("echo $((6*7)) of $HOSTNAME; stty size" + kb.Enter))
	b.until(`document.querySelector(".xterm-rows").innerText.includes("42 of shown")`)
	// The shell knows how large the terminal is.
	b.until(`/\n\s*[1-9]\d+ [1-9]\d+\s*\n/.test(document.querySelector(".xterm-rows").innerText.replaceAll("\u00a0", " "))`)
	b.check("terminal")
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
