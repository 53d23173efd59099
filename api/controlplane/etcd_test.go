package controlplane

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/heldport"
	"github.com/k8sm/k8sm/api/statedir"
)

// inUse is what the process's heap holds, in MB.
func inUse() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

func TestEmbeddedEtcdHoldsNoEntriesForOtherMembers(t *testing.T) {
	c := Config{StateDir: statedir.Dir(t.TempDir()), EtcdQuota: 1 << 30}
	if err := c.StateDir.Prepare(statedir.Spec{Now: time.Now(), ServerURL: "https://127.0.0.1:6443", EtcdNames: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	port := heldport.OfTest(t)
	server, err := c.startEtcd(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	client, err := etcd.Dial(embeddedEtcd(c.StateDir, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	value := strings.Repeat("x", 64<<10)
	before := inUse()
	for range 1000 { // 62 MB
		if _, err := client.Put(ctx, "key", value); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func(context.Context) string {
		if grown := inUse() - before; grown > 25 {
			return fmt.Sprintf("it holds %.0f MB more after 1,000 writes of 64 KB", grown)
		}
		return ""
	})
}
