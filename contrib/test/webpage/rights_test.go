package webpage

import (
	"context"
	"fmt"
	"strings"

	"github.com/chromedp/chromedp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/contrib/test/browser"
	"github.com/k8sm/k8sm/contrib/ui"
)

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// raw are parts of answers that are for programs, and of mistakes of ours.
var raw = []string{`"kind":"Status"`, `"apiVersion"`, "undefined", "[object Object]", "NaN", "SyntaxError", "TypeError", "null"}

// readable fails the test if the page shows what no person wants to read.
func readable(b *browser.Tab, where string) {
	b.Helper()
	text := b.Text()
	for _, r := range raw {
		if strings.Contains(text, r) {
			b.Errorf("%s shows %s:\n%s", where, r, text)
		}
	}
}

// buttons are the texts of the buttons and links that do something to the cluster.
func buttons(b *browser.Tab) string {
	return strings.Join(browser.Eval[[]string](b, `[...document.querySelectorAll("main button, main a.button")].map((e) => e.textContent.trim() || e.getAttribute("aria-label"))`), ", ")
}

// writes are buttons that change something.
var writes = []string{"Delete", "Evict", "Scale", "Restart", "Pause", "Resume", "Run now", "Suspend", "Cordon", "Uncordon", "Drain", "Edit", "Create from YAML", "Go back", "Review", "Apply"}

func changesNothing(b *browser.Tab, where string) {
	b.Helper()
	there := ", " + buttons(b) + ","
	for _, w := range writes {
		if strings.Contains(there, ", "+w+",") {
			b.Errorf("%s has the button %s", where, w)
		}
	}
}

// strangersReadSentences opens all pages as somebody who has no rights.
func strangersReadSentences(b *browser.Tab, c *cluster) {
	token := c.token(b.T, "nobody", nil)
	b = b.Another(b.T, c.page.URL())
	logIn(b, token)
	b.Await("Overview")
	for _, p := range shown {
		if strings.Contains(p.path, "not-there") || strings.Contains(p.path, "%") || strings.Contains(p.path, "no-such") {
			continue
		}
		b.Go(p.path)
		b.Until(`document.querySelector("h1") !== null && !/loading…|Asking the scheduler…/i.test(document.querySelector("main").innerText)`)
		b.Until(`/may not|cannot (get|list|watch|create)|keeps no|not know/i.test(document.querySelector("main").innerText) || ["/resources", "/create"].includes(location.pathname)`)
		readable(b, p.path)
		changesNothing(b, p.path)
		if p.phone {
			b.Check(p.path + " of a stranger")
		}
	}
}

// buttonsAreForThoseWhoMay looks at pages as one who may read a namespace, and one who may change it.
func buttonsAreForThoseWhoMay(b *browser.Tab, c *cluster) {
	made(b.T, c.kube.CoreV1().Namespaces().Create, namespace("team"))
	eventually(b.T, func(ctx context.Context) error {
		_, err := c.kube.CoreV1().ServiceAccounts("team").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	made(b.T, c.kube.AppsV1().Deployments("team").Create, c.deployment("web", nil))
	made(b.T, c.kube.CoreV1().Secrets("team").Create, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "password"}, StringData: map[string]string{"a": "b"}})
	viewer, editor := c.token(b.T, "viewer", map[string]string{"team": "view"}), c.token(b.T, "editor", map[string]string{"team": "edit"})

	reads := b.Another(b.T, c.page.URL())
	logIn(reads, viewer)
	reads.Open("/workloads", "choose it above")
	browser.Eval[any](reads, `document.querySelector("input[aria-label=Namespace]").focus()`)
	reads.Insert("team")
	reads.Keys("\r")
	reads.Until(`location.search.includes("ns=team") && document.querySelector("tbody tr")?.innerText.includes("web")`)
	changesNothing(reads, "the list of a viewer")
	reads.Open("/workloads/deployments/team/web", "Conditions")
	reads.Await("live")
	changesNothing(reads, "the Deployment of a viewer")
	reads.Open("/workloads/deployments/team/web?tab=yaml", "replicas")
	changesNothing(reads, "the YAML of a viewer")
	reads.Open("/config?ns=team&kind=secrets", "may not see")
	readable(reads, "Secrets of a viewer")
	reads.Open("/create?ns=team", "may not")
	changesNothing(reads, "Create of a viewer")

	changes := b.Another(b.T, c.page.URL())
	logIn(changes, editor)
	changes.Open("/workloads/deployments/team/web", "Conditions")
	changes.Press(".actions", "Scale")
	changes.Until(`document.querySelector("dialog input") !== null`)
	browser.Eval[any](changes, `document.querySelector("dialog input").select()`)
	changes.Insert("3")
	changes.Press("dialog", "Scale")
	eventually(b.T, func(ctx context.Context) error {
		d, err := c.kube.AppsV1().Deployments("team").Get(ctx, "web", metav1.GetOptions{})
		if err == nil && *d.Spec.Replicas != 3 {
			err = fmt.Errorf("it has %d replicas", *d.Spec.Replicas)
		}
		return err
	})
	changes.Open("/workloads/deployments/default/hostile", "may not see")
	changesNothing(changes, "a Deployment of another namespace")
	changes.Open("/nodes/"+agent, "may not")
	changesNothing(changes, "a node")

	// Where the page only reads, it has no such buttons for anybody.
	only := b.Another(b.T, c.link(b.T, c.serve(b.T, ui.Config{ReadOnly: true})))
	only.Await("What Kubernetes runs")
	only.Await("read only")
	for _, path := range []string{"/workloads/deployments/team/web", "/workloads/deployments/team/web?tab=yaml", "/pods/default/hostile", "/nodes/" + agent, "/workloads", "/create", "/resources/core/v1/configmaps/default/hostile?tab=yaml"} {
		only.Go(path)
		only.Until(`document.querySelector("h1") !== null && !/loading…/i.test(document.querySelector("main").innerText)`)
		changesNothing(only, path+" of a page that only reads")
	}
}

// expiredTokenLeadsBack has a token that the API server does not take any more.
func expiredTokenLeadsBack(b *browser.Tab, c *cluster) {
	token, other := c.token(b.T, "leaver", map[string]string{"": "view"}), c.token(b.T, "stayer", map[string]string{"": "view"})
	b = b.Another(b.T, c.page.URL())
	logIn(b, token)
	b.Open("/pods?q=hostile&sort=-age", "live")
	was := b.Location()
	if err := c.kube.CoreV1().ServiceAccounts("default").Delete(b.Context(), "leaver", metav1.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	mine := rest.AnonymousClientConfig(c.rest)
	mine.BearerToken = token
	asks := must[*kubernetes.Clientset](b.T)(kubernetes.NewForConfig(mine))
	eventually(b.T, func(ctx context.Context) error { // the API server remembers tokens for a while
		if _, err := asks.CoreV1().Pods("default").List(ctx, metav1.ListOptions{Limit: 1}); !apierrors.IsUnauthorized(err) {
			return fmt.Errorf("the token is still good: %w", err)
		}
		return nil
	})
	// Whatever asks next finds out.
	b.Do(chromedp.Navigate(was))
	b.Await("Log in to the cluster")
	b.Check("log-in")
	if b.Location() != was {
		b.Errorf("the log-in is at %s instead of %s", b.Location(), was)
	}
	logIn(b, other)
	b.Until(`document.querySelector("tbody tr")?.innerText.includes("hostile")`)
	if b.Location() != was {
		b.Errorf("after the log-in it is at %s instead of %s", b.Location(), was)
	}
}
