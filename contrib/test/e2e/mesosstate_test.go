package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/contrib/test/browser"
	"github.com/k8sm/k8sm/contrib/test/scratch"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/mesosstate"
)

// holder returns the identity of a new service account by its token.
func holder(t *testing.T, c *scratch.Cluster, name string) *rest.Config {
	t.Helper()
	accounts := c.Kube.CoreV1().ServiceAccounts("default")
	if _, err := accounts.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := accounts.CreateToken(t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	who := rest.AnonymousClientConfig(c.REST)
	who.BearerToken = token.Status.Token
	return who
}

// letSeeMesos binds the service account to the role, and waits until the API server knows.
func letSeeMesos(t *testing.T, c *scratch.Cluster, name string) {
	t.Helper()
	_, err := c.Kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: name}},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "k8sm:mesos-viewer"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:                  "system:serviceaccount:default:" + name,
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/mesos/state", Verb: "get"},
	}}
	err = scratch.Until(t.Context(), 20*time.Second, func(ctx context.Context) error {
		answer, err := c.Kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err == nil && !answer.Status.Allowed {
			err = fmt.Errorf("%s may not see Mesos yet", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// look reads a document of the scheduler's status until it is as awaited.
func look[T any](t *testing.T, c *scratch.Cluster, who *rest.Config, path string, awaited func(T) bool) {
	t.Helper()
	err := scratch.Until(t.Context(), 60*time.Second, func(context.Context) error {
		code, body, err := answers(who, "https://"+c.StatusAddress()+path)
		var document T
		if err == nil && code == http.StatusOK {
			err = json.Unmarshal([]byte(body), &document)
		}
		if err != nil || code != http.StatusOK || !awaited(document) {
			return fmt.Errorf("%s: %d %w: %s", path, code, err, body)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func mesosIsSeenByThoseWhoMay(t *testing.T, c *scratch.Cluster) {
	stranger, viewer := holder(t, c, "sees-no-mesos"), holder(t, c, "sees-mesos")
	letSeeMesos(t, c, "sees-mesos")
	runs := create(t, c, pod("mesos-seen", forever))
	big := pod("mesos-waiting", forever)
	big.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("100")
	big = create(t, c, big)
	awaitPhase(t, c, runs.Name, corev1.PodRunning)
	look(t, c, viewer, "/mesos/state", func(d mesosstate.Document) bool {
		return len(d.Agents) == 1 && d.Agents[0].Tasks > 0 && d.Agents[0].Node != nil && d.Agents[0].Node.Minion && d.Agents[0].Total["cpus"] > 0 &&
			d.Agents[0].Frameworks[d.Framework]["cpus"] > 0 && d.Master != nil && len(d.Roles) > 0 && len(d.Unknown) == 0 && d.NoMasterSince == nil
	})
	look(t, c, viewer, "/debug/offers/ended", func(h scheduler.OfferHistory) bool {
		return slices.ContainsFunc(h.Offers, func(o scheduler.EndedOffer) bool {
			return o.End == "launched" && slices.Contains(o.Pods, "default/mesos-seen")
		})
	})
	look(t, c, viewer, "/debug/queue/reasons", func(q scheduler.QueueReasons) bool {
		return slices.ContainsFunc(q.Groups, func(g scheduler.ReasonGroup) bool {
			return g.Agents == 1 && g.Examples[0].Pod == "default/mesos-waiting" && containsAll(g.Reason, []string{"Insufficient cpu"})
		})
	})
	streams(t, c, viewer)
	for _, path := range []string{"/mesos/state", "/debug/offers/ended", "/debug/queue/reasons"} {
		if code, body, err := answers(stranger, "https://"+c.StatusAddress()+path); err != nil || code != http.StatusForbidden {
			t.Errorf("%s of a token without the right: %d %v %s", path, code, err, body)
		}
	}
	if code, body, err := answers(viewer, "https://"+c.StatusAddress()+"/debug/pprof/heap"); err != nil || code != http.StatusForbidden {
		t.Errorf("profiles of a viewer: %d %v %s", code, err, body)
	}
	if err := c.Kube.CoreV1().Pods("default").Delete(t.Context(), big.Name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	remove(t, c, runs)
}

// streams reads a document from a stream.
func streams(t *testing.T, c *scratch.Cluster, who *rest.Config) {
	t.Helper()
	client, err := rest.HTTPClientFor(who)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(within(t, 30*time.Second), http.MethodGet, "https://"+c.StatusAddress()+"/mesos/state?watch=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	line, err := bufio.NewReader(response.Body).ReadBytes('\n')
	var d mesosstate.Document
	if err == nil {
		err = json.Unmarshal(line, &d)
	}
	if err != nil || len(d.Agents) != 1 {
		t.Errorf("the stream's first line: %v %s", err, line)
	}
}

// cordonsTheNode opens the page of the agent, and cordons and uncordons its node there.
func cordonsTheNode(b *browser.Tab) {
	b.Helper()
	b.Open("/nodes", "1 ready node")
	b.Until(`document.querySelector("tbody tr a") !== null`)
	browser.Eval[any](b, `document.querySelector("tbody tr a").click()`)
	b.Await("Who has what")
	b.Await("Pods here")
	b.Check("agent")
	b.Press(".actions", "Cordon")
	b.Press("dialog", "Cordon")
	b.Await("takes no new pods")
	b.Await("Cordoned")
	b.Press(".actions", "Uncordon")
	b.Press("dialog", "Uncordon")
	b.Await("takes pods again")
}
