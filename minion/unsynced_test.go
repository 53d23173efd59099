package minion

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/k8sm/k8sm/minion/status"
)

// What goes wrong on a machine for a while and needs its operator is in the condition of its node: rules that cannot be written, a clock
// that differs, a warden that is missing.
func TestLastingProblemsAreInTheNodesCondition(t *testing.T) {
	n := &node{metrics: status.NewMetrics("v", "k"), log: logrus.WithField("node", "n1"), unwarded: []string{unwarded}}
	n.files = layout{dir: t.TempDir()}
	began := time.Now()
	n.syncs.note(status.NetworkPolicies, errors.New("nft: no such file"), began)
	n.syncs.note(status.PodNetwork, errors.New("no iptables"), began)
	if now := n.syncs.lasting(began.Add(syncPatience - time.Second)); len(now) != 0 {
		t.Errorf("told too early: %q", now)
	}
	n.syncs.note(status.PodNetwork, nil, began)
	n.syncs.note(status.NetworkPolicies, errors.New("nft: exit status 1"), began.Add(time.Second))
	n.syncs.note(status.PodNetwork, errors.New("again"), began.Add(syncPatience))
	lasting := n.syncs.lasting(began.Add(syncPatience))
	if want := "network policies are not applied as they are in the cluster: nft: no such file"; len(lasting) != 1 || lasting[0] != want {
		t.Errorf("lasting problems are %q, want %q", lasting, want)
	}
	n.syncs.since[status.NetworkPolicies] = failingSync{time.Now().Add(-time.Hour), errors.New("nft: no such file")}
	client := fake.NewSimpleClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	watch := n.watchProblems(client, func() []string { return []string{"this machine's clock is more than 1m behind"} })
	r := report{version: "v2", started: time.Now(), problems: append(n.unwarded, watch(t.Context())...)}
	if err := r.write(t.Context(), client, "n1"); err != nil {
		t.Fatal(err)
	}
	object, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil || len(object.Status.Conditions) != 1 {
		t.Fatalf("%v, conditions %+v", err, object.Status.Conditions)
	}
	for _, problem := range []string{unwarded, "nft: no such file", "more than 1m behind"} {
		if is := object.Status.Conditions[0]; is.Status != corev1.ConditionTrue || !strings.Contains(is.Message, problem) {
			t.Errorf("the condition does not tell %q: %+v", problem, is)
		}
	}
}
