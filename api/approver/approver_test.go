package approver

import (
	"context"
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/k8sm/k8sm/api"
)

// run starts the approver and stops it, and waits for it, when the test ends.
func run(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, client, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func submit(t *testing.T, client kubernetes.Interface, name string, f Facts) {
	t.Helper()
	f.Request.Name = name
	_, err := client.CertificatesV1().CertificateSigningRequests().Create(t.Context(), f.Request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// decision waits until the request is decided.
func decision(t *testing.T, client kubernetes.Interface, name string) certificatesv1.RequestConditionType {
	t.Helper()
	var made certificatesv1.RequestConditionType
	decided := func(ctx context.Context) (bool, error) {
		r, err := client.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{})
		if err != nil || len(r.Status.Conditions) == 0 {
			return false, err
		}
		made = r.Status.Conditions[0].Type
		return true, nil
	}
	if err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 30*time.Second, true, decided); err != nil {
		t.Fatalf("%s was not decided: %v", name, err)
	}
	return made
}

func TestTokenGetsACertificateForTheNodeInItsLabelOnly(t *testing.T) {
	client := fake.NewClientset(tokenFor("n1"))
	run(t, client)
	submit(t, client, "own", clientRequest(t, nil))
	other := clientRequest(t, nil)
	other.Request.Spec.Username = bootstrapUserPrefix + "unknown"
	submit(t, client, "unknown", other)
	if got := decision(t, client, "own"); got != certificatesv1.CertificateApproved {
		t.Errorf("the node's own token: %s", got)
	}
	submit(t, client, "second", clientRequest(t, nil))
	if got := decision(t, client, "second"); got != certificatesv1.CertificateDenied {
		t.Errorf("a second key with the same token: %s", got)
	}
	token, err := client.CoreV1().Secrets(metav1.NamespaceSystem).Get(t.Context(), "bootstrap-token-abcdef", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ends, err := time.Parse(time.RFC3339, string(token.Data["expiration"])); err != nil || ends.After(time.Now().Add(usedGrace)) {
		t.Errorf("the used token ends at %s, %v", ends, err)
	}
	if got := decision(t, client, "unknown"); got != certificatesv1.CertificateDenied {
		t.Errorf("a token without a secret: %s", got)
	}
}

func TestTokenEndsWhenItsNodesMinionHasStarted(t *testing.T) {
	node := nodeAt("n1", "10.0.0.1:5051")
	node.Annotations[api.AnnotationMinionStarted] = "earlier"
	token, old := tokenFor("n1"), tokenFor("n1")
	token.Annotations = map[string]string{api.AnnotationMinionBefore: "earlier"}
	old.Name = "bootstrap-token-older" // of a scheduler that does not say what was before
	client := fake.NewClientset(token, old, node)
	run(t, client)
	tokens := func(ctx context.Context) (names []string) {
		list, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range list.Items {
			names = append(names, token.Name)
		}
		return names
	}
	submit(t, client, "first", clientRequest(t, nil))
	if got := decision(t, client, "first"); got != certificatesv1.CertificateApproved || len(tokens(t.Context())) != 2 {
		t.Fatalf("before the minion starts: %s, %v", got, tokens(t.Context()))
	}
	node.Annotations[api.AnnotationMinionStarted] = "later"
	if _, err := client.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	ended := func(ctx context.Context) (bool, error) { return slices.Equal(tokens(ctx), []string{old.Name}), nil }
	if err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 30*time.Second, true, ended); err != nil {
		t.Fatalf("tokens after the start: %v", tokens(t.Context()))
	}
}

func TestRequestWaitsForItsNode(t *testing.T) {
	client := fake.NewClientset()
	run(t, client)
	facts := serving(t, nil)
	submit(t, client, "early", facts)
	if _, err := client.CoreV1().Nodes().Create(t.Context(), facts.Node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := decision(t, client, "early"); got != certificatesv1.CertificateApproved {
		t.Errorf("got %s", got)
	}
}
