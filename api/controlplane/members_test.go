package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/heldport"
	"github.com/k8sm/k8sm/api/secretkeys"
	"github.com/k8sm/k8sm/api/statedir"
)

// runMember runs a member of etcd for the state directory until the test ends, and returns its client URL.
func runMember(t *testing.T, dir statedir.Dir) string {
	t.Helper()
	m := etcd.Member{Dir: dir, Name: "m", Advertise: "127.0.0.1", Quota: etcd.DefaultQuota, MinTLS: "TLS1.2"}
	m.ClientPort, m.PeerPort = heldport.OfTest(t), heldport.OfTest(t)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx, nil) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	var found statedir.Etcd
	eventually(t, func(context.Context) (problem string) {
		var err error
		found, err = dir.Etcd()
		return problemOf(err)
	})
	return found.Endpoints[0]
}

// copyFiles copies files of a state directory to another.
func copyFiles(t *testing.T, from, to statedir.Dir, patterns ...string) {
	t.Helper()
	for _, pattern := range patterns {
		files, err := filepath.Glob(from.In(pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, file := range files {
			name, err := filepath.Rel(string(from), file)
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(file)
			if err := errors.Join(err, os.MkdirAll(filepath.Dir(to.In(name)), 0o700), os.WriteFile(to.In(name), data, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestControlPlanesShareTheEtcdOfItsMembers has one control plane beside a member, and one elsewhere.
func TestControlPlanesShareTheEtcdOfItsMembers(t *testing.T) {
	first, second := statedir.Dir(t.TempDir()), statedir.Dir(t.TempDir())
	url := runMember(t, first)
	one := startChild(t, first)
	admin := clientOf(t, adminConfig(t, first))
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "shared"}, StringData: map[string]string{"password": plaintext}}
	if _, err := admin.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	checkEncrypted(t, first, soleKey(t, first))
	t.Run("the scheduler has its own keys in etcd and no others", func(t *testing.T) { testSchedulersEtcd(t, first) })

	elsewhere := childFlags + "=--etcd-servers=" + url
	refused := func(want string) {
		t.Helper()
		if line := launch(t, second, elsewhere).next(t); !strings.Contains(line, want) {
			t.Errorf("the second control plane said %q, want %q", line, want)
		}
	}
	refused("copy pki/ of a machine with one of its members")
	copyFiles(t, first, second, "pki/etcd-ca.*")
	refused("belongs to a cluster with another CA")
	copyFiles(t, first, second, "pki/*ca.*", "pki/sa.*")
	refused("copy encryption.json of a control plane")
	copyFiles(t, first, second, "encryption.json")
	elsewhere += fmt.Sprintf("\n--secure-port=%d", heldport.OfTest(t))
	two := startChild(t, second, elsewhere)
	other := clientOf(t, adminConfig(t, second))
	checkReadable(t, other, "shared")
	if got, err := second.SchedulerEtcd(); err != nil || !got.Managed || got.CertFile != second.In("pki/scheduler-etcd-client.crt") {
		t.Errorf("schedulers find etcd as %+v, %v", got, err)
	}
	t.Run("both get another key of secrets", func(t *testing.T) { rotateTogether(t, first, second) })
	two.kill(t)
	if err := RotateKey(t.Context(), first, KeyRotation{Patience: 5 * time.Second}); err == nil ||
		!strings.Contains(err.Error(), "the change of the key waits for API servers: "+strings.TrimPrefix(adminConfig(t, second).Host, "https://")) {
		t.Errorf("the key changes without the second control plane: %v", err)
	}
	two = startChild(t, second, elsewhere)
	t.Run("both get it when the second is back", func(t *testing.T) { rotateTogether(t, first, second) })
	checkReadable(t, other, "shared")
	one, two = rotateTokensTogether(t, pairOfPlanes{first, second, one, two, func() *child { return startChild(t, second, elsewhere) }})
	one.stop(t)
	makeMap(t, clientOf(t, adminConfig(t, second)), "by-the-second")
	two.stop(t)
}

// pairOfPlanes are two control planes that run.
type pairOfPlanes struct {
	first, second statedir.Dir
	one, two      *child
	startTwo      func() *child
}

// rotateTokensTogether replaces the key of tokens, step by step on one machine or the other, and returns the control planes as they run then.
func rotateTokensTogether(t *testing.T, p pairOfPlanes) (one, two *child) {
	at := func(dir statedir.Dir) string { return adminConfig(t, dir).Host }
	if err := rotation(t, p.first).Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.one.stop(t)
	one = startChild(t, p.first)
	refuses(t, rotation(t, p.first).Issue(t.Context()), "the API server at "+at(p.second)+" does not trust it yet")
	p.two.kill(t)
	refuses(t, rotation(t, p.first).Issue(t.Context()), "cannot ask the API server at "+at(p.second))
	two = p.startTwo()
	if err := rotation(t, p.second).Issue(t.Context()); err != nil {
		t.Fatal(err)
	}
	two.stop(t)
	two = p.startTwo()
	refuses(t, rotation(t, p.second).Finish(t.Context(), time.Now(), 0), "the API server at "+at(p.first)+" signs with the former key still")
	one.stop(t)
	one = startChild(t, p.first)
	if err := rotation(t, p.first).Finish(t.Context(), time.Now(), 0); err != nil {
		t.Fatal(err)
	}
	last := rotation(t, p.second) // which takes over that it is finished
	keys, err := p.first.TokenKeys()
	if diff := cmp.Diff(keys, last.keys); err != nil || diff != "" || keys.Old != "" {
		t.Errorf("%v (-first +second):\n%s", err, diff)
	}
	return one, two
}

// rotateTogether changes the key of two control planes' secrets, while both write some.
func rotateTogether(t *testing.T, first, second statedir.Dir) {
	had, err := secretkeys.Read(second)
	if err != nil {
		t.Fatal(err)
	}
	rotated := make(chan error, 1)
	go func() { rotated <- RotateKey(t.Context(), first, patient) }()
	one, other := clientOf(t, adminConfig(t, first)), clientOf(t, adminConfig(t, second))
	for done := false; !done; {
		select {
		case err = <-rotated:
			done = true
		default:
		}
		for writer, reader := range map[kubernetes.Interface]kubernetes.Interface{one: other, other: one} {
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "while-"}, StringData: map[string]string{"password": plaintext}}
			made, err := writer.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			checkReadable(t, reader, made.Name)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	now := soleKey(t, first)
	if now == had[0].Name || soleKey(t, second) != now {
		t.Errorf("the key was %s, and is %s and %s", had[0].Name, now, soleKey(t, second))
	}
	checkEncrypted(t, first, now)
}

func TestEtcdIsNotBegunBesideTheClustersOwn(t *testing.T) {
	first, next := statedir.Dir(t.TempDir()), statedir.Dir(t.TempDir())
	if err := first.Prepare(statedir.Spec{Now: time.Now(), ServerURL: "https://127.0.0.1:6443"}); err != nil {
		t.Fatal(err)
	}
	files, err := first.Authorities()
	if err != nil {
		t.Fatal(err)
	}
	if err := next.ImportAuthorities(files, time.Now()); err != nil {
		t.Fatal(err)
	}
	err = Run(t.Context(), defaults(next))
	if err == nil || !strings.Contains(err.Error(), "run km etcd join here first") {
		t.Errorf("with authorities that were brought here: %v", err)
	}
	if _, err := os.Stat(next.EtcdData()); !os.IsNotExist(err) {
		t.Errorf("an etcd was begun: %v", err)
	}
	for name, dir := range map[string]statedir.Dir{"a start that was interrupted": first, "an empty directory": statedir.Dir(t.TempDir())} {
		if err := defaults(dir).checkBegins(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEmbeddedEtcdAndMemberDoNotShareData(t *testing.T) {
	dir := statedir.Dir(t.TempDir())
	unlock, err := dir.Lock("etcd") // as km etcd does
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unlock() }()
	if line := launch(t, dir).next(t); !strings.Contains(line, "cannot run etcd in "+string(dir)) {
		t.Errorf("the control plane said %q", line)
	}
}
