package controlplane

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/transport"

	"github.com/k8sm/k8sm/api/heldport"
	"github.com/k8sm/k8sm/api/join"
	"github.com/k8sm/k8sm/api/statedir"
)

// bring is km pki export on one machine and km pki import on another.
func bring(t *testing.T, from, to statedir.Dir) {
	t.Helper()
	const passphrase = "correct horse battery staple"
	sealed, err := join.Seal(from, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	if err := join.Open(to, sealed, passphrase); err != nil {
		t.Fatal(err)
	}
}

// Each step is refused until the other control plane has the one before, and the load on both notices none of them. Meanwhile the key of
// secrets changes, too, whichever control plane has gone a step further.
func TestCAsOfTwoControlPlanesAreReplacedUnderLoad(t *testing.T) {
	transport.CertCallbackRefreshDuration = time.Second
	first, second := statedir.Dir(t.TempDir()), statedir.Dir(t.TempDir())
	url := runMember(t, first)
	startChild(t, first)
	bring(t, first, second)
	elsewhere := fmt.Sprintf("%s=--etcd-servers=%s\n--secure-port=%d", childFlags, url, heldport.OfTest(t))
	startChild(t, second, elsewhere)
	admin := clientOf(t, restartingConfig(t, first))
	kubelet := startKubelet(t, first, admin)
	formers := map[statedir.Dir]string{}
	former := asOf(t, second)
	text, err := os.ReadFile(first.CA())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var l load
	var all sync.WaitGroup
	token := serviceAccountToken(t, admin)
	for name, dir := range map[string]statedir.Dir{"first": first, "second": second} {
		formers[dir] = filepath.Join(t.TempDir(), "ca.crt")
		if err := os.WriteFile(formers[dir], text, 0o600); err != nil {
			t.Fatal(err)
		}
		uses := loads(t, dir, kubelet)
		uses["a pod that has read its CA once"] = func(ctx context.Context) error {
			return podCalls(ctx, adminConfig(t, dir).Host, formers[dir], token)
		}
		for what, do := range uses {
			all.Go(func() { l.every(ctx, what+" at the "+name, time.Second, do) })
		}
	}
	replaceCAsTogether(t, first, second)
	stop()
	all.Wait()
	l.report(t)
	testControllerManagerLives(t, admin)
	testNoFormerCA(t, second, admin, text)
	if _, err := former.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("a certificate of the former CA at the second: %v", err)
	}
}

// replaceCAsTogether goes through the steps on the first control plane, and brings each to the second.
func replaceCAsTogether(t *testing.T, first, second statedir.Dir) {
	t.Helper()
	at := "the API server at " + adminConfig(t, second).Host
	if err := caRotation(t, first).Begin(time.Now(), statedir.Lives{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) string { // others may be late, too
		return refusing(caRotation(t, first).Issue(ctx, time.Now()), at+" does not trust the next CA yet: bring it the authorities")
	})
	t.Run("another key of secrets while one trusts the next CA", func(t *testing.T) { rotateTogether(t, first, second) })
	bring(t, first, second)
	eventually(t, func(ctx context.Context) string { return problemOf(caRotation(t, first).Issue(ctx, time.Now())) })
	eventually(t, func(ctx context.Context) string {
		return refusing(caRotation(t, first).Finish(ctx, time.Now()), at+" shows a certificate of the CA that is to go: bring it the authorities")
	})
	t.Run("another key of secrets while one issues by the next CA", func(t *testing.T) {
		rotateTogether(t, first, second)
		rotateTogether(t, second, first)
	})
	bring(t, first, second)
	brought := time.Now()
	eventually(t, func(ctx context.Context) string { // the first has waited meanwhile; the second's clients have new certificates only now
		return refusing(caRotation(t, first).Finish(ctx, time.Now()), at+" has issued certificates by this ca for less than 20s")
	})
	eventually(t, func(ctx context.Context) string { return problemOf(caRotation(t, first).Finish(ctx, time.Now())) })
	if waited := time.Since(brought); waited < settling {
		t.Errorf("it is finished %s after the second got the authorities", waited)
	}
	t.Run("another key of secrets while one trusts the former CA still", func(t *testing.T) {
		rotateTogether(t, second, first)
		rotateTogether(t, first, second)
	})
	bring(t, first, second)
	for _, dir := range []statedir.Dir{first, second} {
		all, err := dir.Rotations()
		if err != nil {
			t.Fatal(err)
		}
		for _, ca := range all {
			if ca.Phase != statedir.Steady {
				t.Errorf("%s is %s in %s", ca.Authority, ca.Phase, dir)
			}
		}
	}
}

// refusing returns a problem unless the error says why.
func refusing(err error, why string) string {
	if err == nil || !strings.Contains(err.Error(), why) {
		return fmt.Sprintf("got %v, want %q", err, why)
	}
	return ""
}
