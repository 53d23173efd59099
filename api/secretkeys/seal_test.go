package secretkeys

import (
	"errors"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api/statedir"
)

// Two control planes may be at different steps of km certs rotate-ca.
func TestKeysAreOpenedWhileTheCAIsReplaced(t *testing.T) {
	one, two := statedir.Dir(t.TempDir()), statedir.Dir(t.TempDir())
	key, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(one.Prepare(statedir.Spec{Now: time.Now(), ServerURL: "https://192.0.2.1"}), one.BeginRotation(time.Now(), statedir.Lives{}, "ca")); err != nil {
		t.Fatal(err)
	}
	files, err := one.Authorities()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(two.ImportAuthorities(files, time.Now()), one.IssueRotation(time.Now(), "ca")); err != nil {
		t.Fatal(err)
	}
	for _, way := range [][2]statedir.Dir{{one, two}, {two, one}} {
		sealed, err := ring{Names: []string{key.Name}}.seal(way[0], []Key{key})
		if err != nil {
			t.Fatal(err)
		}
		if keys, err := sealed.open(way[1]); err != nil || len(keys) != 1 || keys[0] != key {
			t.Errorf("%v, %v", keys, err)
		}
	}
}
