package join

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
)

// prepared returns the directory of a control plane that has run.
func prepared(t *testing.T) statedir.Dir {
	t.Helper()
	dir := statedir.Dir(t.TempDir())
	spec := statedir.Spec{Now: time.Now(), ServerURL: "https://192.0.2.1:6443", ServerNames: []string{"192.0.2.1"}, EtcdNames: []string{"localhost"}}
	if err := errors.Join(dir.Prepare(spec), dir.WriteEncryptionConfig([]byte("{}"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

const passphrase = "correct horse battery staple"

func TestNextControlPlaneHasTheSameAuthoritiesAndNoCertificateOfTheFirst(t *testing.T) {
	first, next := prepared(t), statedir.Dir(t.TempDir())
	sealed, err := seal(first, passphrase, randomFactor)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // an import may be repeated
		if err := Open(next, sealed, passphrase); err != nil {
			t.Fatal(err)
		}
	}
	want, err := first.Authorities()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]byte{}
	err = filepath.WalkDir(string(next), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() == "pki.lock" {
			return err
		}
		info, err := entry.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
		}
		name, _ := filepath.Rel(string(next), path)
		got[name], err = os.ReadFile(path)
		return err
	})
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if len(got) != 11 {
		t.Errorf("%d files", len(got))
	}
	if !next.HasAuthorities() {
		t.Error("the next one does not know that it has them")
	}
}

func TestBundleShowsNothingWithoutItsPassphrase(t *testing.T) {
	first := prepared(t)
	sealed, err := seal(first, passphrase, randomFactor)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("PRIVATE KEY")) || bytes.Contains(sealed, []byte("pki/")) {
		t.Error("it is not encrypted")
	}
	next := statedir.Dir(t.TempDir())
	if err := Open(next, sealed, passphrase+"r"); !errors.Is(err, ErrPassphrase) {
		t.Errorf("another passphrase: %v", err)
	}
	broken := bytes.Clone(sealed)
	at := len(broken) / 2
	broken[at] = 'A' + (broken[at]-'A'+1)%26
	for what, data := range map[string][]byte{"changed": broken, "cut": sealed[:len(sealed)/2], "empty": nil} {
		if err := Open(next, data, passphrase); err == nil {
			t.Errorf("a bundle that was %s is accepted", what)
		}
	}
	if next.HasAuthorities() {
		t.Error("something was written")
	}
}

func TestAuthoritiesOfAnotherClusterAreNotReplaced(t *testing.T) {
	first, other := prepared(t), prepared(t)
	before, err := os.ReadFile(other.CA())
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := seal(first, passphrase, randomFactor)
	if err != nil {
		t.Fatal(err)
	}
	if err := Open(other, sealed, passphrase); !errors.Is(err, statedir.ErrOtherAuthorities) {
		t.Errorf("got %v", err)
	}
	if after, err := os.ReadFile(other.CA()); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the CA was replaced: %v", err)
	}
}

func TestBundleWritesNoOtherFile(t *testing.T) {
	for _, name := range []string{"../escape", "/etc/k8sm-escape", "pki/admin.key", "scheduler.kubeconfig", "pki/../../escape"} {
		dir := statedir.Dir(filepath.Join(t.TempDir(), "state"))
		if err := dir.ImportAuthorities(map[string][]byte{name: []byte("x")}, time.Now()); err == nil {
			t.Errorf("%s is written", name)
		}
	}
}

func TestTokenIsOneLineAndIsReadBack(t *testing.T) {
	first := prepared(t)
	client := fake.NewClientset()
	token, err := Issue(t.Context(), client, first, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	text := token.String()
	if strings.ContainsAny(text, " \n\t") {
		t.Errorf("it is not one word: %q", text)
	}
	got, err := ParseToken(" " + text + "\n")
	if diff := cmp.Diff(token, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	for _, wrong := range []string{"", text[1:], text[:len(text)-8], strings.Replace(text, ".", "", 1), "ABCDEF" + text[6:], text + "." + text} {
		if _, err := ParseToken(wrong); err == nil {
			t.Errorf("%.40q is accepted", wrong)
		}
	}
}

func TestTokensEndWithTheirTime(t *testing.T) {
	client := fake.NewClientset()
	first := prepared(t)
	old, err := Issue(t.Context(), client, first, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := Issue(t.Context(), client, first, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := Tidy(t.Context(), client, time.Now().Add(2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	list, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range list.Items {
		names = append(names, s.Name)
		for _, data := range s.Data {
			if bytes.Contains(data, []byte(old.Passphrase)) || bytes.Contains(data, []byte(fresh.Passphrase)) {
				t.Errorf("%s has a passphrase", s.Name)
			}
		}
	}
	if diff := cmp.Diff([]string{api.BootstrapSecretPrefix + fresh.ID, namePrefix + fresh.ID}, names); diff != "" {
		t.Error(diff)
	}
}
