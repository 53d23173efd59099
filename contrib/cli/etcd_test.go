package cli

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/heldport"
	"github.com/k8sm/k8sm/api/statedir"
)

// etcdMember runs a member of etcd on loopback, calls do when it serves, and ends it.
func etcdMember(t *testing.T, dir statedir.Dir, do func(context.Context, statedir.Etcd)) {
	t.Helper()
	ready := make(chan struct{})
	m := etcd.Member{Dir: dir, Name: "one", Advertise: "127.0.0.1", Quota: etcd.DefaultQuota, MinTLS: "TLS1.2", Ready: func() { close(ready) }}
	m.ClientPort, m.PeerPort = heldport.OfTest(t), heldport.OfTest(t)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx, nil) }()
	select {
	case <-ready:
		access, err := dir.Etcd()
		if err != nil {
			t.Error(err)
		} else {
			do(ctx, access)
		}
	case err := <-ended:
		t.Fatalf("the member ended: %v", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestEtcdRecoversWithAYesOnly(t *testing.T) {
	dir := statedir.Dir(t.TempDir())
	run := func(flags ...string) (int, string) {
		var out, errs bytes.Buffer
		status := Run(append([]string{"--state-dir=" + string(dir), "etcd", "recover"}, flags...), &out, &errs)
		return status, out.String() + errs.String()
	}
	if status, said := run("--yes"); status != exitFailed || !strings.Contains(said, "no member of etcd has its data in") {
		t.Errorf("without data: %d, %s", status, said)
	}
	etcdMember(t, dir, func(ctx context.Context, access statedir.Etcd) {
		c, err := etcd.Dial(access)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Put(ctx, "kept", "x"); err != nil {
			t.Error(err)
		}
		if _, err := c.MemberAdd(ctx, []string{"https://127.0.0.1:1"}); err != nil { // it is down: the quorum is lost
			t.Error(err)
		}
	})
	if status, said := run(); status != exitUsage || !strings.Contains(said, "this ends the membership of") {
		t.Errorf("without --yes: %d, %s", status, said)
	}
	if status, said := run("--yes"); status != 0 || !strings.HasPrefix(said, "one is a cluster of its own, without ") {
		t.Errorf("with --yes: %d, %s", status, said)
	}
	if status, said := run(); status != 0 || !strings.Contains(said, "one has no other member beside it") {
		t.Errorf("once more: %d, %s", status, said)
	}
	etcdMember(t, dir, func(ctx context.Context, access statedir.Etcd) {
		c, err := etcd.Dial(access)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got, err := c.Get(ctx, "kept"); err != nil || len(got.Kvs) != 1 {
			t.Errorf("it has %v, %v", got, err)
		}
	})
}

func TestEtcdJoinsByAFlagAndByACommand(t *testing.T) {
	for _, args := range [][]string{{"etcd", "--join=%s"}, {"etcd", "join", "%s"}} {
		for url, want := range map[string]string{"http://192.0.2.1:2379": "cannot join http://192.0.2.1:2379: give the client URLs of members", "https://192.0.2.1:2379": "copy pki/ of a machine with one of its members"} {
			var out, errs bytes.Buffer
			line := append([]string{"--state-dir=" + t.TempDir()}, args...)
			line[len(line)-1] = fmt.Sprintf(line[len(line)-1], url)
			if status := Run(append(line, "--advertise-address=127.0.0.1"), &out, &errs); status == 0 || !strings.Contains(errs.String(), want) {
				t.Errorf("%v: %d, %s", line, status, errs.String())
			}
		}
	}
}
