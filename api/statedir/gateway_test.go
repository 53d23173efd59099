package statedir

import (
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGatewayIsFoundWhileItRuns(t *testing.T) {
	d := Dir(t.TempDir())
	if err := d.RemoveGateway(); err != nil {
		t.Errorf("there is nothing to remove: %v", err)
	}
	if g, err := d.Gateway(); !errors.Is(err, ErrNoCluster) {
		t.Errorf("before: %+v, %v", g, err)
	}
	want := Gateway{PID: 7, Address: "127.0.0.1:8080", Insecure: true}
	if err := d.WriteGateway(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.Gateway()
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v, -written +read:\n%s", err, diff)
	}
	if err := d.RemoveGateway(); err != nil {
		t.Fatal(err)
	}
	if g, err := d.Gateway(); !errors.Is(err, ErrNoCluster) {
		t.Errorf("after: %+v, %v", g, err)
	}
	if err := os.WriteFile(d.gatewayNote(), []byte("127.0.0.1:8080"), 0o600); err != nil {
		t.Fatal(err)
	}
	if g, err := d.Gateway(); err == nil || errors.Is(err, ErrNoCluster) {
		t.Errorf("a bare address is read as %+v, %v", g, err)
	}
}
