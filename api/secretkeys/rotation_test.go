package secretkeys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/k8sm/k8sm/api/state/etcdtest"
	"github.com/k8sm/k8sm/api/statedir"
)

// world is an etcd with secrets, and control planes that read and write them all the time.
type world struct {
	*testing.T
	client *clientv3.Client
	planes []*plane

	mu      sync.Mutex        // guards what follows, and what the planes' API servers use
	secrets map[string]string // the names of the keys that they are encrypted with
	running map[string]bool   // the hosts of API servers
}

// plane is a control plane.
type plane struct {
	*world
	Server
	host string

	keys []Key  // that its API server uses
	file []byte // that they are from
	stop context.CancelFunc
	done *sync.WaitGroup
}

func newWorld(t *testing.T, planes int) *world {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + etcdtest.Start(t)}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	w := &world{T: t, client: client, secrets: map[string]string{}, running: map[string]bool{}}
	for range planes {
		w.add()
	}
	for _, p := range w.planes {
		p.start()
	}
	w.settled()
	return w
}

// settled waits until all have said which keys they use.
func (w *world) settled() {
	w.Helper()
	if err := w.rotation(w.planes[0]).await(w.Context(), ring{Names: names(mustRead(w.T, w.planes[0].Dir))[:1]}); err != nil {
		w.Fatal(err)
	}
}

// add makes a control plane with the authorities of the first.
func (w *world) add() *plane {
	w.Helper()
	p := &plane{world: w, host: fmt.Sprintf("192.0.2.%d", len(w.planes)+1)}
	p.Server = Server{Client: w.client, Dir: statedir.Dir(w.TempDir()), Address: net.JoinHostPort(p.host, "6443"), Loaded: p.loaded, every: 10 * time.Millisecond, seconds: 2}
	if len(w.planes) == 0 {
		key, err := New()
		err = errors.Join(err, p.Dir.Prepare(statedir.Spec{Now: time.Now(), ServerURL: "https://192.0.2.1"}), Write(p.Dir, []Key{key}))
		if err != nil {
			w.Fatal(err)
		}
	} else {
		files, err := w.planes[0].Dir.Authorities()
		if err := errors.Join(err, p.Dir.ImportAuthorities(files, time.Now())); err != nil {
			w.Fatal(err)
		}
	}
	w.planes = append(w.planes, p)
	return p
}

func (p *plane) loaded(file []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Equal(p.file, file)
}

// start runs the control plane until die or end.
func (p *plane) start() {
	p.Helper()
	ctx, stop := context.WithCancel(context.Background())
	p.stop, p.done = stop, &sync.WaitGroup{}
	if err := p.Begin(ctx); err != nil {
		p.Fatal(err)
	}
	p.Cleanup(p.die)
	p.load()
	p.mu.Lock()
	p.running[p.host] = true
	p.mu.Unlock()
	p.done.Go(func() { p.Follow(ctx) })
	p.done.Go(func() { p.every(ctx, 7*time.Millisecond, p.load) })
	p.done.Go(func() { p.every(ctx, 5*time.Millisecond, p.use) })
}

func (p *plane) every(ctx context.Context, interval time.Duration, do func()) {
	for tick := time.NewTicker(interval); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
			do()
		}
	}
}

// die ends it as kill -9 does.
func (p *plane) die() {
	p.stop()
	p.Server.stop()
	p.done.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.running, p.host)
}

func (p *plane) end() {
	p.Helper()
	p.die()
	if err := p.End(context.Background()); err != nil {
		p.Error(err)
	}
}

// load makes the API server use the file.
func (p *plane) load() {
	file, err := os.ReadFile(p.Dir.EncryptionConfig())
	keys, readErr := Read(p.Dir)
	if err := errors.Join(err, readErr); err != nil {
		p.Error(err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.file, p.keys = file, keys
}

// use reads all secrets and writes one.
func (p *plane) use() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, key := range p.secrets {
		if !slices.Contains(names(p.keys), key) {
			p.Errorf("%s cannot read %s, which is encrypted with %s: it has %v", p.host, name, key, names(p.keys))
		}
	}
	p.secrets[fmt.Sprintf("s%d", rand.IntN(20))] = p.keys[0].Name
}

// rotation is one that runs beside a control plane.
func (w *world) rotation(beside *plane) *Rotation {
	return &Rotation{Client: w.client, Dir: beside.Dir, Patience: 2 * time.Minute, every: 5 * time.Millisecond,
		Running: func(context.Context) (hosts []string, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for host := range w.running {
				hosts = append(hosts, host)
			}
			return hosts, nil
		},
		Rewrite: func(ctx context.Context, key Key) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if beside.keys[0].Name != key.Name {
				w.Errorf("secrets are to be written with %s, and %s encrypts with %s", key.Name, beside.host, beside.keys[0].Name)
			}
			for name := range w.secrets {
				w.secrets[name] = beside.keys[0].Name
			}
			return ctx.Err()
		}}
}

// blocked expects that a rotation ends with an error. On a busy machine it needs more patience until only what it shall wait for is left.
func (w *world) blocked(says string, without ...string) {
	w.Helper()
	r := w.rotation(w.planes[0])
	r.Without = without
	for r.Patience = time.Second; ; r.Patience *= 2 {
		err := r.Run(w.Context())
		switch {
		case err != nil && strings.Contains(err.Error(), says):
			return
		case err == nil || r.Patience > 30*time.Second:
			w.Errorf("got %v, want %q", err, says)
			return
		}
	}
}

// soleKey is the key that all control planes have, and all secrets.
func (w *world) soleKey() (name string) {
	w.Helper()
	for _, p := range w.planes {
		keys, err := Read(p.Dir)
		if err != nil || len(keys) != 1 || (name != "" && keys[0].Name != name) {
			w.Fatalf("%s has %v, %v; another has %s", p.host, names(keys), err, name)
		}
		name = keys[0].Name
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for secret, key := range w.secrets {
		if key != name {
			w.Errorf("%s is encrypted with %s, not %s", secret, key, name)
		}
	}
	return name
}

func TestAllControlPlanesGetTheNextKeyBeforeAnythingNeedsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	before := w.soleKey()
	for i := range 3 {
		done := make(chan error, 1)
		go func() { done <- w.rotation(w.planes[i]).Run(t.Context()) }()
		if i == 1 { // one is restarted, and one more joins, whatever the step
			w.planes[2].end()
			w.add().start()
			w.planes[2].start()
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		now := w.soleKey()
		if now == before {
			t.Errorf("the key is %s still", now)
		}
		before = now
	}
}

func TestRotationThatIsKilledGoesOnAnywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	for range 3 {
		before, tries := w.soleKey(), 0
		// It dies at any point at first, and gets the time that it needs on a busy machine in the end.
		for rest := time.Duration(0); ; rest += max(3*time.Millisecond, rest/10) {
			ctx, cancel := context.WithTimeout(t.Context(), rest)
			err := w.rotation(w.planes[rand.IntN(3)]).Run(ctx)
			cancel()
			if err == nil {
				break
			}
			if tries++; rest > 30*time.Second {
				t.Fatal(err)
			}
		}
		t.Logf("the rotation was killed %d times", tries)
		if now := w.soleKey(); now == before {
			t.Errorf("the key is %s still", now)
		}
	}
}

func mustRead(t *testing.T, dir statedir.Dir) []Key {
	t.Helper()
	keys, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestControlPlaneThatIsAwayHoldsTheRotationUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	before, away := w.soleKey(), w.planes[2]
	away.die()
	w.blocked("waits for API servers: 192.0.2.3:6443 (it uses " + before + "). All secrets can be read meanwhile")
	w.blocked("no control plane has said that it is at 192.0.2.9:6443", "192.0.2.9:6443")
	w.blocked("the API server at 192.0.2.2:6443 runs", "192.0.2.2:6443")
	away.start()
	if err := w.rotation(w.planes[1]).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	middle := w.soleKey()

	away.die() // for good, it seems
	w.blocked("the API server at 192.0.2.3:6443 runs, or ran some seconds ago", away.Address)
	r := w.rotation(w.planes[0])
	r.Without = []string{away.Address}
	for begin := time.Now(); ; <-time.After(50 * time.Millisecond) {
		err := r.Run(t.Context())
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), "ran some seconds ago") || time.Since(begin) > 30*time.Second {
			t.Fatal(err)
		}
	}
	if err := r.Run(t.Context()); err != nil { // also when it is named again
		t.Error(err)
	}
	away.start() // it takes the key over before its API server starts
	w.settled()
	if now := w.soleKey(); now == before || now == middle {
		t.Errorf("the key is %s still", now)
	}
}

func TestControlPlaneThatTakesNoKeysOverHoldsTheRotationUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	before, second := w.soleKey(), w.planes[1]
	other := statedir.Dir(t.TempDir())
	if err := other.Prepare(statedir.Spec{Now: time.Now(), ServerURL: "https://192.0.2.1"}); err != nil {
		t.Fatal(err)
	}
	exchange := func() { // the keys of both CAs
		t.Helper()
		for _, rename := range [][2]string{{second.Dir.CAKey(), other.CAKey() + ".was"}, {other.CAKey(), second.Dir.CAKey()}, {other.CAKey() + ".was", other.CAKey()}} {
			if err := os.Rename(rename[0], rename[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	exchange()
	w.blocked("192.0.2.2:6443 (cannot read the keys of secrets in etcd: it was sealed by a control plane with another key of the CA; copy encryption.json of one that runs)")
	if got := names(mustRead(t, second.Dir)); !slices.Equal(got, []string{before}) {
		t.Errorf("a control plane with another key of the CA has %v", got)
	}
	exchange()
	w.mu.Lock()
	w.running["192.0.2.7"] = true
	w.mu.Unlock()
	w.blocked("192.0.2.7 (its km is of an earlier version")
	w.mu.Lock()
	delete(w.running, "192.0.2.7")
	w.mu.Unlock()
	if err := w.rotation(second).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := w.soleKey(); now == before {
		t.Errorf("the key is %s still", now)
	}
}

func TestKeysOfEtcdAreSealed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	watched := w.client.Watch(t.Context(), "/k8sm-keys/", clientv3.WithPrefix())
	if err := w.rotation(w.planes[0]).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	secret := mustRead(t, w.planes[0].Dir)[0].Secret
	if _, err := w.client.Put(t.Context(), "/k8sm-keys/end", ""); err != nil {
		t.Fatal(err)
	}
	for answer := range watched {
		for _, e := range answer.Events {
			if bytes.Contains(e.Kv.Value, []byte(secret[:20])) {
				t.Errorf("etcd had the key: %s", e.Kv.Value)
			}
			if string(e.Kv.Key) == "/k8sm-keys/end" {
				return
			}
		}
	}
}

// An etcd that runs in a control plane can be used by others beside that. It tells those from what is older than a snapshot.
func TestControlPlaneWithEtcdForgetsOnlyWhatCannotComeBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	embedding, beside := w.planes[0], w.planes[1]
	beside.die()
	embedding.end()
	embedding.Embeds = true
	embedding.start()
	embedding.die()
	say := func(address string, r report) {
		t.Helper()
		if err := (store{client: w.client}).say(t.Context(), address, r); err != nil {
			t.Fatal(err)
		}
	}
	say("192.0.2.8:6443", report{Cluster: embedding.cluster + 1})
	say("192.0.2.9:6443", report{Cluster: embedding.cluster, Embeds: true})
	say("192.0.2.10:6443", report{}) // by a km that did not say more
	embedding.start()
	got, err := Addresses(t.Context(), w.client)
	if want := []string{embedding.Address, beside.Address}; err != nil || !slices.Equal(got, want) {
		t.Errorf("control planes are known at %v, %v, want %v", got, err, want)
	}
	w.blocked("waits for API servers: " + beside.Address)
}

func TestControlPlaneWithKeysOfAnotherIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	p := w.add()
	p.Foreign = true
	p.start()
	w.blocked("192.0.2.2:6443 (its keys are not km's)")
	p.die()
	if got, err := Addresses(t.Context(), w.client); err != nil || !slices.Contains(got, p.Address) {
		t.Errorf("control planes are known at %v, %v, want %s, too", got, err, p.Address)
	}
}
