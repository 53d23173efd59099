package own

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/k8sm/k8sm/contrib/logs/receive"
	"github.com/k8sm/k8sm/contrib/logs/store"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestLinesOfAFileAreCopiedOnceAcrossRotationsAndRestarts(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	var got bytes.Buffer
	newFollower := func() *follower {
		f := &follower{path: path, position: filepath.Join(dir, "audit.json"), to: &got}
		if err := load(f.position, &f.at); err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := newFollower()
	read := func(want string) {
		t.Helper()
		if err := f.read(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.String()); diff != "" {
			t.Error(diff)
		}
		got.Reset()
	}
	read("") // there is no file yet
	write(t, path, "one\ntwo\nthr")
	read("one\ntwo\n")
	write(t, path, "ee\n")
	read("three\n")
	f = newFollower()
	read("")
	write(t, path, "four\n")
	if err := os.Rename(path, filepath.Join(dir, "audit-2026-11-30T12-00-00.000.log")); err != nil {
		t.Fatal(err)
	}
	write(t, path, "five\n")
	read("four\nfive\n")
	if err := os.WriteFile(path, []byte("six\n"), 0o600); err != nil { // the same file, truncated
		t.Fatal(err)
	}
	read("six\n")
	long := strings.Repeat("x", readAtOnce+10)
	write(t, path, long+"\nend\n")
	read(long + "\nend\n")
	if err := os.WriteFile(f.position, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	f = newFollower()
	read("six\n" + long + "\nend\n") // rather twice than never
}

func event(name, version string, at int64) *corev1.Event {
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, ResourceVersion: version}, LastTimestamp: metav1.Unix(at, 0), Count: 3,
		Type: "Warning", Reason: "BackOff", Message: "Back-off \"restarting\"\nfailed", Source: corev1.EventSource{Component: "kubelet", Host: "a"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: name, UID: "u"},
	}
}

func TestEventsAreLinesOfLogfmt(t *testing.T) {
	want := `time=1970-01-01T00:01:40Z type=Warning reason=BackOff namespace=shop kind=Pod name=web message="Back-off \"restarting\"\nfailed" count=3 from=kubelet host=a uid=u`
	if diff := cmp.Diff(want, format(event("web", "1", 100))); diff != "" {
		t.Error(diff)
	}
}

func TestEventsAreWrittenOnceAcrossRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		there := []corev1.Event{*event("old", "1", 100)}
		kube.PrependReactor("list", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, &corev1.EventList{ListMeta: metav1.ListMeta{ResourceVersion: "10"}, Items: there}, nil
		})
		var changes *watch.FakeWatcher
		expired := false
		kube.PrependWatchReactor("events", func(clienttesting.Action) (bool, watch.Interface, error) {
			if expired {
				expired = false
				return true, nil, apierrors.NewResourceExpired("too old")
			}
			changes = watch.NewFakeWithChanSize(10, false)
			return true, changes, nil
		})
		position := filepath.Join(t.TempDir(), "events.json")
		var got bytes.Buffer
		run := func(during func()) {
			t.Helper()
			e := &events{kube: kube, position: position, to: &got}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- e.run(ctx) }()
			time.Sleep(3 * time.Second)
			synctest.Wait()
			during()
			time.Sleep(3 * time.Second)
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		run(func() { changes.Add(event("new", "11", 200)) })
		run(func() { changes.Modify(event("new", "12", 210)) })
		there = append(there, *event("between", "13", 220))
		expired = true
		run(func() {})
		var names []string
		for line := range strings.Lines(got.String()) {
			_, rest, _ := strings.Cut(line, " name=")
			name, _, _ := strings.Cut(rest, " ")
			names = append(names, name)
		}
		if diff := cmp.Diff([]string{"old", "new", "new", "between"}, names); diff != "" {
			t.Error(diff)
		}
	})
}

// nowhere are Places without pods.
type nowhere struct{}

func (nowhere) Place(context.Context, string, string, string, string) receive.Place {
	return receive.Place{Verdict: receive.Refused}
}

func TestFilesArriveInTheStore(t *testing.T) {
	dir := t.TempDir()
	entries, err := store.Open(store.Config{Dir: filepath.Join(dir, "store"), Retention: 24 * time.Hour, Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer entries.Close()
	server := receive.New(entries, nowhere{}, 0)
	path := filepath.Join(dir, "km.log")
	write(t, path, "hello\n")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- server.Run(ctx) }()
	go func() {
		ended <- Run(ctx, Config{
			Kube: fake.NewClientset(event("web", "1", time.Now().Unix())), Dir: filepath.Join(dir, "own"), Files: map[string]string{"km": path}, Node: "control-plane:x",
			Serve: func(w http.ResponseWriter, r *http.Request, node string) { server.ServeOwn(w, r, node) }, Registry: prometheus.NewRegistry(),
		})
	}()
	for want, deadline := map[string]bool{"hello": true, "BackOff": true}, time.Now().Add(30*time.Second); len(want) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the store lacks %v", want)
		}
		err := entries.Query(t.Context(), store.Components, map[string]string{receive.FieldNode: "control-plane:x"}, "*", func(b store.Block) error {
			for _, text := range b.Column(store.Message) {
				for part := range want {
					if strings.Contains(text, part) {
						delete(want, part)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
