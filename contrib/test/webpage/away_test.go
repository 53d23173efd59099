package webpage

import (
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/k8sm/k8sm/contrib/test/browser"
)

// schedulerGoes ends the scheduler and the master.
func schedulerGoes(b *browser.Tab, c *cluster) {
	b.Open("/mesos", "Leading master")
	since := time.Now()
	c.mesos.change(func() { c.mesos.document.NoMasterSince = &since })
	b.Await("No Mesos master answers the scheduler since")
	b.Await("Leading master") // what was known stays
	b.Check("no master")
	b.Open("/", "no master answers since")
	c.mesos.change(func() { c.mesos.document.NoMasterSince = nil })
	b.Until(`!document.body.innerText.includes("no master answers")`)

	b.Open("/mesos", "Leading master")
	c.mesos.leave()
	b.Await("Not live now")
	b.Await("Leading master")
	b.Check("no scheduler")
	for _, path := range []string{"/", "/nodes", "/nodes/" + agent, "/offers", "/queue", "/queue?view=tasks", "/mesos"} {
		b.Go(path)
		b.Until(`/no scheduler/i.test(document.querySelector("main")?.innerText ?? "")`)
		readable(b, path+" without a scheduler")
	}
	c.mesos.serve(b.T, c)
	b.Await("Leading master") // by itself
	b.Until(`!document.body.innerText.includes("Not live now")`)
}

// extensionsGo has API services of metrics and logs that do not answer.
func extensionsGo(b *browser.Tab, c *cluster) {
	services := must[*dynamic.DynamicClient](b.T)(dynamic.NewForConfig(c.rest)).Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	made(b.T, c.kube.CoreV1().Services("kube-system").Create, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "away"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}})
	for _, group := range []string{"logs.k8sm.io", "monitoring.k8sm.io"} {
		_, err := services.Create(b.Context(), &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": map[string]any{"name": "v1." + group},
			"spec": map[string]any{"group": group, "version": "v1", "groupPriorityMinimum": int64(100), "versionPriority": int64(100), "insecureSkipTLSVerify": true,
				"service": map[string]any{"namespace": "kube-system", "name": "away"}},
		}}, metav1.CreateOptions{})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.Open("/", "does not answer")
	for _, path := range []string{"/logs", "/metrics", "/metrics?tab=alerts", "/metrics?tab=targets", "/metrics?tab=query&expr=up"} {
		b.Go(path)
		b.Until(`/do(es)? not answer|unavailable|cannot/i.test(document.querySelector("main")?.innerText ?? "")`)
		readable(b, path+" without an answer")
	}
	for _, group := range []string{"logs.k8sm.io", "monitoring.k8sm.io"} {
		if err := services.Delete(b.Context(), "v1."+group, metav1.DeleteOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// apiServerGoes stops the API server's process for a while, and kills it.
func apiServerGoes(b *browser.Tab, c *cluster) {
	live := `document.querySelector(".live")?.innerText.includes("live")`
	shows := `[...document.querySelectorAll("tbody tr")].some((r) => r.innerText.includes("hostile"))`
	b.Open("/pods", "live")
	b.Until(shows)
	browser.Eval[any](b, `window.sameDocument = true`)

	c.signalPlane(b.T, syscall.SIGSTOP)
	b.Await("reconnecting…")
	b.Until(shows)
	c.signalPlane(b.T, syscall.SIGCONT)
	b.Until(live)

	c.killPlane(b.T)
	b.Await("reconnecting…")
	b.Until(shows)
	b.Check("reconnecting")
	// What is asked meanwhile is answered by a sentence.
	other := b.Another(b.T, c.page.URL())
	other.Await("Log in to the cluster")
	browser.Eval[any](other, `document.querySelector("input[type=password]").focus()`)
	other.Insert("a-token")
	other.Keys("\r")
	other.Await("cannot reach the API server")
	same := b.Beside(b.T, c.page.URL()+"config")
	same.Until(`/cannot|reconnecting|does not answer/i.test(document.querySelector("main")?.innerText ?? "")`)
	readable(same, "Config without an API server")

	c.startPlane(b.T)
	b.Until(live)
	c.makePod(b.T, "after-the-crash", nil)
	b.Until(`[...document.querySelectorAll("tbody tr")].some((r) => r.innerText.includes("after-the-crash"))`)
	if !browser.Eval[bool](b, `"sameDocument" in window`) {
		b.Error("the page was loaded anew")
	}
	same.Until(`[...document.querySelectorAll("tbody tr")].some((r) => r.innerText.includes("hostile"))`)
}
