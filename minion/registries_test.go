package minion

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// trusted returns the files below a directory of certificates with their content.
func trusted(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	paths, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name, _ := filepath.Rel(dir, path)
		files[name] = string(data)
	}
	return files
}

func TestRegistriesAreTrustedAsLongAsANodeOfTheMachineWantsIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "docker", "certs.d")
	of := func(cluster, node string) registryCAs { return registryCAs{dir, cluster, node} }
	ours, theirs := of("k8sm", "agent-1"), of("other", "agent-1")
	ca := map[string][]byte{"harbor.example:8443": []byte("the CA")}
	for _, r := range []registryCAs{ours, theirs, of("k8sm", "agent-2"), ours} {
		if err := r.sync(ca); err != nil {
			t.Fatal(err)
		}
	}
	files := trusted(t, dir)
	for name, content := range files {
		if !strings.HasSuffix(name, ".crt") || !strings.HasPrefix(content, "# ") || !strings.HasSuffix(content, "\nthe CA") {
			t.Errorf("%s has %q", name, content)
		}
	}
	if len(files) != 3 {
		t.Errorf("files of three nodes are %q", slices.Sorted(maps.Keys(files)))
	}
	for _, r := range []registryCAs{of("k8sm", "agent-2"), ours} {
		if err := r.remove(nil); err != nil {
			t.Fatal(err)
		}
	}
	if left := slices.Collect(maps.Keys(trusted(t, dir))); !slices.Equal(left, []string{"harbor.example:8443/" + theirs.file()}) {
		t.Errorf("the other cluster's node has %q", left)
	}
	if err := theirs.remove(nil); err != nil {
		t.Fatal(err)
	}
	if folders, err := os.ReadDir(dir); len(folders) > 0 || err != nil {
		t.Errorf("left behind: %v, %v", folders, err)
	}
}

func TestFilesOfTheOperatorStay(t *testing.T) {
	dir := t.TempDir()
	for _, folder := range []string{"harbor.example", "gone.example"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"ca.crt", "k8sm-1.crt", "client.key"} {
			if err := os.WriteFile(filepath.Join(dir, folder, name), []byte("the operator's"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "README"), []byte("the operator's"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := trusted(t, dir)
	r := registryCAs{dir, "k8sm", "agent-1"}
	if err := r.sync(map[string][]byte{"harbor.example": []byte("1"), "gone.example": []byte("1")}); err != nil {
		t.Fatal(err)
	}
	if err := r.sync(map[string][]byte{"harbor.example": []byte("2")}); err != nil {
		t.Fatal(err)
	}
	want := maps.Clone(before)
	want["harbor.example/"+r.file()] = trusted(t, dir)["harbor.example/"+r.file()]
	if got := trusted(t, dir); !maps.Equal(want, got) || !strings.HasSuffix(got["harbor.example/"+r.file()], "\n2") {
		t.Errorf("got %v", got)
	}
	if err := r.remove(nil); err != nil || !maps.Equal(before, trusted(t, dir)) {
		t.Errorf("%v, left %v", err, trusted(t, dir))
	}
}

func TestHalfWrittenCertificatesAreReplacedOrRemoved(t *testing.T) {
	dir := t.TempDir()
	r := registryCAs{dir, "k8sm", "agent-1"}
	if err := r.sync(map[string][]byte{"a.example": []byte("1")}); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "a.example", r.file()), filepath.Join(dir, "a.example", r.file()+".new")); err != nil {
		t.Fatal(err)
	}
	if err := r.sync(nil); err != nil {
		t.Fatal(err)
	}
	if folders, err := os.ReadDir(dir); len(folders) > 0 || err != nil {
		t.Errorf("left behind: %v, %v", folders, err)
	}
}
