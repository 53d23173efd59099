package approver

import (
	"context"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
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
	client := fake.NewClientset(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Namespace: metav1.NamespaceSystem, Name: "bootstrap-token-abcdef", Labels: map[string]string{api.LabelNode: "n1"},
	}})
	run(t, client)
	submit(t, client, "own", clientRequest(t, nil))
	other := clientRequest(t, nil)
	other.Request.Spec.Username = bootstrapUserPrefix + "unknown"
	submit(t, client, "unknown", other)
	if got := decision(t, client, "own"); got != certificatesv1.CertificateApproved {
		t.Errorf("the node's own token: %s", got)
	}
	if got := decision(t, client, "unknown"); got != certificatesv1.CertificateDenied {
		t.Errorf("a token without a secret: %s", got)
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
