package controlplane

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api/heldport"
	"github.com/k8sm/k8sm/api/snapshot"
	"github.com/k8sm/k8sm/api/statedir"
)

// makeMap makes a ConfigMap in the namespace default.
func makeMap(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// watchMaps follows the ConfigMaps of the namespace default until the test ends, over the deaths of control planes.
func watchMaps(t *testing.T, client kubernetes.Interface) cache.Store {
	t.Helper()
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace("default"))
	informer := factory.Core().V1().ConfigMaps().Informer()
	factory.Start(t.Context().Done())
	t.Cleanup(factory.Shutdown)
	if !cache.WaitForCacheSync(t.Context().Done(), informer.HasSynced) {
		t.Fatal("the informer has not listed")
	}
	return informer.GetStore()
}

// awaitMaps waits until the store has the one ConfigMap and not the other.
func awaitMaps(t *testing.T, store cache.Store, there, gone string) {
	t.Helper()
	eventually(t, func(context.Context) string {
		_, has, err := store.GetByKey("default/" + there)
		_, hasOther, errOther := store.GetByKey("default/" + gone)
		switch {
		case err != nil || errOther != nil:
			return problemOf(err) + problemOf(errOther)
		case !has:
			return there + " is not there"
		case hasOther:
			return gone + " is there"
		}
		return ""
	})
}

// tokenOf returns a client with a new token of a service account.
func tokenOf(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) kubernetes.Interface {
	t.Helper()
	accounts := admin.CoreV1().ServiceAccounts("default")
	if _, err := accounts.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := accounts.CreateToken(t.Context(), "robot", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(adminConfig(t, dir))
	config.BearerToken = token.Status.Token
	return clientOf(t, config)
}

// saveWhileTheKeyChanges saves a snapshot while all secrets get a new key.
func saveWhileTheKeyChanges(t *testing.T, dir statedir.Dir) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "k8sm.tar")
	rotated := make(chan error, 1)
	go func() { rotated <- RotateKey(t.Context(), dir, patient) }()
	for done := false; !done; { // the last one is of after
		select {
		case err := <-rotated:
			if err != nil {
				t.Fatal(err)
			}
			done = true
		default:
		}
		m, err := SaveSnapshot(t.Context(), dir, file)
		if err != nil || len(m.OtherKeys) > 0 {
			t.Fatalf("a snapshot without the keys %v, %v", m.OtherKeys, err)
		}
		if !done {
			verifyReadable(t, file)
		}
	}
	return file
}

// verifyReadable restores the file, which fails if a secret has no key.
func verifyReadable(t *testing.T, file string) {
	t.Helper()
	if _, err := snapshot.Restore(file, statedir.Dir(filepath.Join(t.TempDir(), "state"))); err != nil {
		t.Fatal(err)
	}
}

func TestRestoredControlPlaneServesTheClientsOfTheOldOne(t *testing.T) {
	old, port := statedir.Dir(t.TempDir()), fmt.Sprintf("--secure-port=%d", heldport.OfTest(t))
	running := startChild(t, old, childFlags+"="+port)
	config := adminConfig(t, old)
	admin := clientOf(t, config)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "kept"}, StringData: map[string]string{"password": plaintext}}
	if _, err := admin.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	makeMap(t, admin, "kept")
	robot := tokenOf(t, old, admin)
	seen := watchMaps(t, admin)
	file := saveWhileTheKeyChanges(t, old)
	makeMap(t, admin, "lost")
	awaitMaps(t, seen, "lost", "new")
	running.kill(t)

	fresh, scheduled := statedir.Dir(t.TempDir()), t.TempDir()
	if _, err := snapshot.Restore(file, fresh); err != nil {
		t.Fatal(err)
	}
	running = startChild(t, fresh, childFlags+"="+strings.Join([]string{
		port, "--snapshot-dir=" + scheduled, "--snapshot-every=1s", "--snapshot-keep=1"}, "\n"))
	checkReadable(t, admin, "kept")
	if _, err := admin.CoreV1().ConfigMaps("default").Get(t.Context(), "lost", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what came after the snapshot: %v", err)
	}
	makeMap(t, admin, "new")
	awaitMaps(t, seen, "new", "lost")
	who, err := robot.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || who.Status.UserInfo.Username != "system:serviceaccount:default:robot" {
		t.Errorf("an old token's user is %v, %v", who, err)
	}
	if err := RotateKey(t.Context(), fresh, patient); err != nil {
		t.Errorf("changing the key afterwards: %v", err)
	}
	awaitScheduled(t, admin, scheduled)
	running.stop(t)
}

// awaitScheduled waits for the second snapshot of the schedule, and checks the metrics.
func awaitScheduled(t *testing.T, admin kubernetes.Interface, dir string) {
	t.Helper()
	first := ""
	eventually(t, func(context.Context) string {
		files, err := filepath.Glob(filepath.Join(dir, "k8sm-*.tar"))
		switch {
		case err != nil || len(files) != 1:
			return "there is not one snapshot: " + strings.Join(files, ", ")
		case first == "":
			first = files[0]
		}
		if files[0] == first {
			return "there is no second snapshot"
		}
		return ""
	})
	metrics, err := admin.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`(?m)^k8sm_snapshot_last_success_timestamp_seconds 1\.\d+e\+09$`, `(?m)^k8sm_snapshot_failures_total 0$`} {
		if !regexp.MustCompile(want).Match(metrics) {
			t.Errorf("the API server's metrics have no %s", want)
		}
	}
}
