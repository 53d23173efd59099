package webpage

import (
	"context"
	"fmt"
	"strings"

	"github.com/chromedp/chromedp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/k8sm/k8sm/contrib/test/browser"
)

// write replaces what is in the editor.
func write(b *browser.Tab, text string) {
	b.Helper()
	b.Until(`document.querySelector(".edit .cm-content, .editor .cm-content") !== null`)
	b.Do(chromedp.Focus(chromedp.CSS(".editor .cm-content")), chromedp.KeyEvent("a", chromedp.KeyModifiers(chromedp.ModifierCtrl)))
	b.Insert(text)
}

const mergedYAML = `apiVersion: v1
kind: ConfigMap
metadata:
  name: merged
  namespace: default
data:
  mine: "%s"
  theirs: "%s"
`

// changesAreMerged edits an object that somebody else changes meanwhile.
func changesAreMerged(b *browser.Tab, c *cluster) {
	maps := c.kube.CoreV1().ConfigMaps("default")
	object := made(b.T, maps.Create, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "merged"}, Data: map[string]string{"mine": "old", "theirs": "old"}})
	b.Open("/resources/core/v1/configmaps/default/merged?tab=yaml", "mine: old")
	b.Press(".yaml", "Edit")
	b.Until(`document.querySelector(".editor .cm-content")?.innerText.includes("mine: old")`)
	write(b, fmt.Sprintf(mergedYAML, "new", "old"))
	object.Data["theirs"] = "new"
	object = must[*corev1.ConfigMap](b.T)(maps.Update(b.Context(), object, metav1.UpdateOptions{}))
	b.Press(".edit", "Review")
	b.Await("Somebody has changed it meanwhile")
	b.Check("merge")
	// Left is how it is now, right is one's own.
	b.Until(`document.querySelectorAll(".cm-mergeView .cm-content").length === 2`)
	b.Until(`document.querySelectorAll(".cm-mergeView .cm-content")[0].innerText.includes("theirs: new") && document.querySelectorAll(".cm-mergeView .cm-content")[1].innerText.includes('mine: "new"')`)
	take := `[...document.querySelectorAll(".cm-merge-revert button")]`
	b.Until(take + `.length > 0`)
	// Each arrow takes a part of the left side. Mine is written again over what they take with it.
	browser.Eval[any](b, take+`.forEach((one) => one.dispatchEvent(new MouseEvent("mousedown", {bubbles: true})))`)
	b.Until(`document.querySelectorAll(".cm-mergeView .cm-content")[1].innerText.includes("theirs: new")`)
	b.Press(".edit", "Go on with the right side")
	b.Until(`document.querySelector(".editor .cm-content")?.innerText.includes("theirs: new")`)
	write(b, fmt.Sprintf(mergedYAML, "new", "new"))
	// And somebody changes it once more, before the change is made.
	b.Press(".edit", "Review")
	b.Await("This will change")
	object.Data["third"] = "kept"
	must[*corev1.ConfigMap](b.T)(maps.Update(b.Context(), object, metav1.UpdateOptions{}))
	b.Press(".edit", "Apply")
	b.Await("Somebody has changed it meanwhile")
	b.Press(".edit", "Go on with the right side")
	b.Until(`document.querySelector(".editor .cm-content")?.innerText.includes('mine: "new"')`)
	write(b, fmt.Sprintf(mergedYAML, "new", "new")+"  third: kept\n")
	b.Press(".edit", "Review")
	b.Await("This will change")
	b.Press(".edit", "Apply")
	b.Until(`document.querySelector(".yaml pre")?.innerText.includes("third: kept")`)
	got := must[*corev1.ConfigMap](b.T)(maps.Get(b.Context(), "merged", metav1.GetOptions{}))
	if got.Data["mine"] != "new" || got.Data["theirs"] != "new" || got.Data["third"] != "kept" {
		b.Errorf("the object is %v", got.Data)
	}
	deletedWhileEdited(b, c)
}

// deletedWhileEdited edits an object that somebody deletes meanwhile: what was written stays.
func deletedWhileEdited(b *browser.Tab, c *cluster) {
	b.Helper()
	b.Press(".yaml", "Edit")
	b.Until(`document.querySelector(".editor .cm-content")?.innerText.includes("third: kept")`)
	write(b, fmt.Sprintf(mergedYAML, "a long text", "new"))
	if err := c.kube.CoreV1().ConfigMaps("default").Delete(b.Context(), "merged", metav1.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	b.Await("was deleted")
	if !browser.Eval[bool](b, `document.querySelector(".editor .cm-content")?.innerText.includes("a long text") ?? false`) {
		b.Errorf("what was written is lost:\n%s", b.Text())
	}
}

// wrongFieldsHaveLines writes what the API server refuses.
func wrongFieldsHaveLines(b *browser.Tab) {
	b.Open("/create", "Create from YAML")
	for text, wants := range map[string][]string{
		"apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\nspec:\n  containers:\n    - name: UPPER\n      image: one\n":         {"spec.containers[0].name|line 7"},
		"apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\nspec:\n  containers:\n    - name: a\n":                               {"spec.containers[0].image|line 7"},
		"apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\nspec:\n  containers:\n    - name: a\n      imagee: one\n":            {`imagee: there is no such field|line 8`},
		"apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n spec:\n":                                                            {"|line 5"},
		"apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\nspec:\n  containers: [\n":                                            {"|line 7"},
		"apiVersion: v1\nkind: Podd\nmetadata:\n  name: x\n":                                                                   {"no kind Podd|line 2"},
		"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: B_\n": {"metadata.name|line 9"},
	} {
		write(b, text)
		b.Press(".actions", "Review")
		b.Until(`document.querySelector(".troubles") !== null && !document.querySelector(".actions").innerText.includes("Working")`)
		said := browser.Eval[string](b, `document.querySelector(".troubles").innerText`)
		for _, want := range wants {
			for _, part := range strings.Split(want, "|") {
				if !strings.Contains(said, part) {
					b.Errorf("%s\nis answered by %q, without %q", text, said, part)
				}
			}
		}
	}
	b.Check("wrong fields")
	browser.Eval[any](b, `document.querySelector(".troubles button").click()`)
	b.Until(`document.activeElement.classList.contains("cm-content")`)
}

// rolloutIsUndone changes a Deployment, looks at what going back would change, and goes back; it pauses and resumes it.
func rolloutIsUndone(b *browser.Tab, c *cluster) {
	deployments := c.kube.AppsV1().Deployments("default")
	made(b.T, deployments.Create, c.deployment("undone", nil))
	c.replicas(b.T, "undone", 1)
	c.patch(b.T, "undone", `{"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "two"}]}}}}`)
	b.Open("/workloads/deployments/default/undone?tab=history", "two")
	b.Until(`document.querySelectorAll(".plain tbody tr").length === 2`)
	b.Press(".plain", "Compare")
	b.Await("Going back to revision 1 would change")
	b.Until(`document.querySelector(".cm-mergeView")?.innerText.includes("image: two") && document.querySelector(".cm-mergeView").innerText.includes("image: one")`)
	b.Check("history")
	b.Press(".toolbar", "Go back")
	b.Await("The pods are replaced as in any rollout")
	b.Press("dialog", "Go back")
	b.Await("goes back to revision 1")
	becomes := func(what string, is func(*appsv1.Deployment) bool) {
		b.Helper()
		eventually(b.T, func(ctx context.Context) error {
			d, err := deployments.Get(ctx, "undone", metav1.GetOptions{})
			if err == nil && !is(d) {
				err = fmt.Errorf("the Deployment is not %s", what)
			}
			return err
		})
	}
	becomes("as it was", func(d *appsv1.Deployment) bool { return d.Spec.Template.Spec.Containers[0].Image == "one" })
	b.Press(".actions", "Pause")
	b.Await("kept, but not rolled out")
	b.Press("dialog", "Pause")
	b.Await("Rollouts are paused")
	becomes("paused", func(d *appsv1.Deployment) bool { return d.Spec.Paused })
	b.Press(".actions", "Resume")
	b.Press("dialog", "Resume")
	becomes("resumed", func(d *appsv1.Deployment) bool { return !d.Spec.Paused })
	b.Press(".actions", "Restart")
	b.Await("step by step")
	b.Press("dialog", "Restart")
	becomes("restarted", func(d *appsv1.Deployment) bool {
		return d.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] != ""
	})
	b.Press(".actions", "Delete")
	b.Await("Its pods are deleted, too")
	b.Press("dialog", "Delete")
	eventually(b.T, func(ctx context.Context) error {
		_, err := deployments.Get(ctx, "undone", metav1.GetOptions{})
		return gone(err)
	})
}

// cronJobRunsNow makes a Job of a CronJob.
func cronJobRunsNow(b *browser.Tab, c *cluster) {
	b.Open("/workloads/cronjobs/default/nightly", "Runs at 0 3 * * *")
	b.Press(".actions", "Run now")
	b.Await("beside those of its schedule")
	b.Press("dialog", "Run")
	b.Until(`location.pathname.startsWith("/workloads/jobs/default/nightly-")`)
	list, err := c.kube.BatchV1().Jobs("default").List(b.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].OwnerReferences[0].Name != "nightly" || list.Items[0].Annotations["cronjob.kubernetes.io/instantiate"] != "manual" {
		b.Errorf("the Jobs are %v, %v", list, err)
	}
	b.Open("/workloads/cronjobs/default/nightly", "Runs at 0 3 * * *")
	b.Press(".actions", "Suspend")
	b.Await("makes no more Jobs")
	b.Press("dialog", "Suspend")
	b.Await("Suspended")
	b.Press(".actions", "Resume")
	b.Press("dialog", "Resume")
	b.Await("Runs at 0 3 * * *")
}

// drainWaits drains the node, from which a PodDisruptionBudget lets a pod go only when there is another.
func drainWaits(b *browser.Tab, c *cluster) {
	pods := c.kube.CoreV1().Pods("default")
	made(b.T, c.kube.AppsV1().Deployments("default").Create, c.deployment("budgeted", nil))
	p := &c.replicas(b.T, "budgeted", 1)[0]
	c.bind(b.T, p)
	p = must[*corev1.Pod](b.T)(pods.Get(b.Context(), p.Name, metav1.GetOptions{}))
	c.runs(b.T, p)
	one := intstr.FromInt32(1)
	made(b.T, c.kube.PolicyV1().PodDisruptionBudgets("default").Create, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "budgeted"}, Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "budgeted"}}},
	})
	eventually(b.T, func(ctx context.Context) error {
		budget, err := c.kube.PolicyV1().PodDisruptionBudgets("default").Get(ctx, "budgeted", metav1.GetOptions{})
		if err == nil && budget.Status.CurrentHealthy != 1 {
			err = fmt.Errorf("the budget knows %d pods", budget.Status.CurrentHealthy)
		}
		return err
	})
	b.Open("/nodes/"+agent, "Who has what")
	b.Press(".actions", "Drain")
	b.Await("PodDisruptionBudgets are respected")
	b.Press("dialog", "Drain")
	b.Await("default/" + p.Name)
	b.Await("disruption budget")
	b.Check("drain")
	if n := must[*corev1.Node](b.T)(c.kube.CoreV1().Nodes().Get(b.Context(), node, metav1.GetOptions{})); !n.Spec.Unschedulable {
		b.Error("the node is not cordoned")
	}
	// Another page, and back: the drain goes on.
	browser.Eval[any](b, `document.querySelector("nav.side a[href^='/pods']").click()`)
	b.Await("Each pod is a Mesos task")
	c.patch(b.T, "budgeted", `{"spec": {"replicas": 2}}`)
	for _, other := range c.replicas(b.T, "budgeted", 2) {
		if other.Name != p.Name {
			c.runs(b.T, &other) // it is somewhere else, and ready
		}
	}
	eventually(b.T, func(ctx context.Context) error {
		_, err := pods.Get(ctx, p.Name, metav1.GetOptions{})
		return gone(err)
	})
	b.Open("/nodes/"+agent, "Cordoned")
	b.Press(".actions", "Uncordon")
	b.Press("dialog", "Uncordon")
	b.Await("takes pods again")
	if _, err := pods.Get(b.Context(), "hostile", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		b.Errorf("a pod without a budget is still there: %v", err)
	}
	c.makePod(b.T, "hostile", nil)
	if err := c.kube.AppsV1().Deployments("default").Delete(b.Context(), "budgeted", metav1.DeleteOptions{}); err != nil {
		b.Error(err)
	}
}
