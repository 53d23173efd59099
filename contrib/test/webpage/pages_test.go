package webpage

import (
	"strings"

	"github.com/k8sm/k8sm/contrib/test/browser"
)

// shown are all pages, with a text that is on each. Those that begin with "phone" are also shown to a phone.
var shown = []struct {
	path, text string
	phone      bool
}{
	{"/", "What Kubernetes runs", true},
	{"/mesos", "Leading master", true},
	{"/nodes", "1 ready node", true},
	{"/nodes/" + agent, "Who has what", true},
	{"/offers", seen, true},
	{"/offers?view=held", "Expires in", false},
	{"/queue", seen, true},
	{"/queue?view=pods", seen, false},
	{"/queue?view=tasks", "of.another", false},
	{"/workloads", "hostile", true},
	{"/workloads?kind=cronjobs", "nightly", false},
	{"/workloads/deployments/default/hostile", "Conditions", true},
	{"/workloads/deployments/default/hostile?tab=history", "Revisions", false},
	{"/workloads/deployments/default/hostile?tab=yaml", seen, false},
	{"/workloads/cronjobs/default/nightly", "Runs at 0 3 * * *", false},
	{"/pods", "hostile", true},
	{"/pods?cols=name,status,node,task,controller,labels", "hostile", false},
	{"/pods/default/hostile", seen, true},
	{"/pods/default/" + long, "Containers", true},
	{"/pods/default/hostile?tab=yaml", seen, true},
	{"/pods/default/not-there", "This pod is gone", false},
	{"/network", "hostile", true},
	{"/resources/core/v1/services/default/hostile", "Who answers", true},
	{"/resources/networking.k8s.io/v1/networkpolicies/default/hostile", "Pods that it selects", false},
	{"/config", "hostile", true},
	{"/resources/core/v1/configmaps/default/hostile", "__proto__", true},
	{"/resources/core/v1/configmaps/default/hostile?tab=yaml", seen, false},
	{"/resources/core/v1/secrets/default/hostile", "toString", false},
	{"/storage", "No Claims", true},
	{"/access", seen, true},
	{"/resources/rbac.authorization.k8s.io/v1/roles/default/" + escapedName, seen, false},
	{"/resources/rbac.authorization.k8s.io/v1/rolebindings/default/" + escapedName, seen, false},
	{"/extensions", "Custom resources", true},
	{"/events", seen, true},
	{"/logs", "This cluster keeps no logs", true},
	{"/metrics", "This cluster keeps no metrics", true},
	{"/create", "Create from YAML", true},
	{"/resources", "CustomResourceDefinition", true},
	{"/resources/core/v1/nodes", node, false},
	{"/resources/core/v1/nodes/-/" + node, "Conditions", false},
	{"/no-such-page", "There is no such page", false},
}

var escapedName = strings.NewReplacer("<", "%3C", ">", "%3E", `"`, "%22", "'", "%27", " ", "%20").Replace(hostileName)

// pagesAreGood opens all pages, which have hostile texts.
func pagesAreGood(b *browser.Tab) {
	for _, p := range shown {
		b.Open(p.path, p.text)
		b.Check(p.path)
		harmless(b, p.path)
		if p.phone {
			b.Wide(390)
			b.Check(p.path + " on a phone")
			if over := browser.Eval[int](b, `document.documentElement.scrollWidth - innerWidth`); over > 0 {
				b.Errorf("%s on a phone is %d pixels too wide", p.path, over)
			}
			b.Wide(1440)
		}
	}
}

// harmless fails the test if the page took a hostile text for more than text.
func harmless(b *browser.Tab, where string) {
	b.Helper()
	if browser.Eval[bool](b, `"pwned" in window || document.title.includes("taken")`) {
		b.Errorf("%s: the page runs what others wrote", where)
	}
	made := browser.Eval[[]string](b, `[...document.querySelectorAll("#app :is(img, iframe, script, object, embed, base, meta, style:not([nonce]), link)")].map((e) => e.outerHTML)`)
	led := browser.Eval[[]string](b, `[...document.querySelectorAll("a[href]")].filter((a) => a.origin !== location.origin).map((a) => a.outerHTML)`)
	for _, e := range append(made, led...) {
		b.Errorf("%s: the page has %.200s", where, e)
	}
}
