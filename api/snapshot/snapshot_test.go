package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/state/etcdtest"
	"github.com/k8sm/k8sm/api/statedir"
)

// cluster is a state directory beside an etcd of its own.
type cluster struct {
	t    *testing.T
	dir  statedir.Dir
	etcd clientv3.Config
	*clientv3.Client
}

func start(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: statedir.Dir(t.TempDir())}
	if err := c.dir.Prepare(statedir.Spec{Now: time.Now(), ServerURL: "https://127.0.0.1:6443"}); err != nil {
		t.Fatal(err)
	}
	c.etcd = clientv3.Config{Endpoints: []string{"http://" + etcdtest.Start(t)}, Logger: zap.NewNop()}
	client, err := clientv3.New(c.etcd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	c.Client = client
	return c
}

// setKeys writes the encryption configuration, the key that encrypts first, and rewrites the secret with that key.
func (c *cluster) setKeys(names ...string) {
	c.t.Helper()
	keys := make([]apiserverv1.Key, len(names))
	for i, name := range names {
		keys[i] = apiserverv1.Key{Name: name, Secret: "of " + name}
	}
	data, err := json.Marshal(apiserverv1.EncryptionConfiguration{Resources: []apiserverv1.ResourceConfiguration{{
		Resources: []string{"secrets"},
		Providers: []apiserverv1.ProviderConfiguration{
			{Secretbox: &apiserverv1.SecretboxConfiguration{Keys: keys}}, {Identity: &apiserverv1.IdentityConfiguration{}},
		},
	}}})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.dir.WriteEncryptionConfig(data); err != nil {
		c.t.Fatal(err)
	}
	c.put("/registry/secrets/default/s", "k8s:enc:secretbox:v1:"+names[0]+":cipher")
}

func (c *cluster) put(key, value string) {
	c.t.Helper()
	if _, err := c.Put(context.Background(), key, value); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) save() (file string, m Manifest) {
	c.t.Helper()
	file = filepath.Join(c.t.TempDir(), "k8sm.tar")
	m, err := Save(c.t.Context(), Source{Dir: c.dir, Etcd: c.etcd}, file)
	if err != nil {
		c.t.Fatal(err)
	}
	return file, m
}

// restored returns a new state directory with the snapshot.
func restored(t *testing.T, file string) statedir.Dir {
	t.Helper()
	dir := statedir.Dir(filepath.Join(t.TempDir(), "new"))
	if _, err := Restore(file, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// run starts the restored etcd as the control plane does.
func run(t *testing.T, dir statedir.Dir) *clientv3.Client {
	t.Helper()
	c := embed.NewConfig()
	c.Name, c.Dir, c.ListenPeerUrls = Member, dir.EtcdData(), nil
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.ListenClientUrls[0].Host = "127.0.0.1:0"
	c.AdvertiseClientUrls = c.ListenClientUrls
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + e.Clients[0].Addr().String()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestRestoredClusterHasAllThatWasSavedAndMakesWatchersListAnew(t *testing.T) {
	c := start(t)
	c.setKeys("k1")
	c.put("/registry/pods/default/p", "saved")
	file, m := c.save()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("beside the snapshot: %v, %v", left, err)
	}
	c.put("/registry/pods/default/p", "later")
	later, err := c.Get(t.Context(), "/registry/pods/default/p")
	if err != nil {
		t.Fatal(err)
	}
	dir := restored(t, file)
	for _, name := range []string{"pki/ca.crt", "pki/ca.key", "pki/etcd-ca.key", "pki/front-proxy-ca.key", "pki/kubelet-serving-ca.key", "pki/sa.key", "pki/admin.key"} {
		before, err := os.ReadFile(c.dir.In(name))
		after, errAfter := os.ReadFile(dir.In(name))
		if err != nil || errAfter != nil || string(before) != string(after) {
			t.Errorf("%s: %v, %v; the same: %t", name, err, errAfter, string(before) == string(after))
		}
	}
	client := run(t, dir)
	got, err := client.Get(t.Context(), "/registry/pods/default/p")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "saved" {
		t.Errorf("the pod is %v, %v", got, err)
	}
	if got.Header.Revision < m.Etcd.Revision+bump {
		t.Errorf("the revision is %d, not beyond %d", got.Header.Revision, m.Etcd.Revision+bump)
	}
	answer := <-client.Watch(t.Context(), "/registry/pods/", clientv3.WithPrefix(), clientv3.WithRev(later.Header.Revision+1))
	if !errors.Is(answer.Err(), rpctypes.ErrCompacted) {
		t.Errorf("a watch from a revision that was lost: %v", answer.Err())
	}
}

// duringCopy makes the next copies of etcd call these functions first, one a copy.
func (c *cluster) duringCopy(steps ...func()) {
	var mu sync.Mutex
	c.etcd.DialOptions = []grpc.DialOption{grpc.WithStreamInterceptor(
		func(ctx context.Context, d *grpc.StreamDesc, conn *grpc.ClientConn, method string, next grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
			mu.Lock()
			defer mu.Unlock()
			if strings.HasSuffix(method, "/Snapshot") && len(steps) > 0 {
				steps[0]()
				steps = steps[1:]
			}
			return next(ctx, d, conn, method, options...)
		})}
}

func TestEverySecretOfASnapshotCanBeReadWhileKeysChange(t *testing.T) {
	rotate := func(c *cluster, old, next string) func() {
		return func() { c.setKeys(next, old); c.setKeys(next) }
	}
	for name, test := range map[string]struct {
		during func(*cluster) []func()
		want   []string
	}{
		"no change":      {func(*cluster) []func() { return nil }, []string{"k1"}},
		"a new key":      {func(c *cluster) []func() { return []func(){rotate(c, "k1", "k2")} }, []string{"k2", "k1"}},
		"a new key only": {func(c *cluster) []func() { return []func(){func() { c.setKeys("k2", "k1") }} }, []string{"k2", "k1"}},
		"a new key each time": {func(c *cluster) []func() {
			return []func(){rotate(c, "k1", "k2"), rotate(c, "k2", "k3")}
		}, []string{"k2", "k1"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			c.setKeys("k1")
			c.duringCopy(test.during(c)...)
			file, m := c.save()
			keys, err := readKeys(restored(t, file))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, key := range *keys.keys() {
				got = append(got, key.Name)
			}
			if diff := cmp.Diff(test.want, got); diff != "" || len(m.OtherKeys) > 0 {
				t.Errorf("keys (-want +got), and others %v:\n%s", m.OtherKeys, diff)
			}
		})
	}
}

// TestCopyWithoutItsKeyIsMadeAgain: a key was made and replaced while etcd was copied, so that neither the keys of before nor those of
// after decrypt the copy.
func TestCopyWithoutItsKeyIsMadeAgain(t *testing.T) {
	c := start(t)
	c.setKeys("k1")
	c.duringCopy(func() {
		c.setKeys("k2")
		data, err := os.ReadFile(c.dir.EncryptionConfig())
		if err != nil {
			t.Error(err)
		}
		if err := c.dir.WriteEncryptionConfig([]byte(strings.ReplaceAll(string(data), "k2", "k3"))); err != nil {
			t.Error(err)
		}
	}, func() { c.setKeys("k3") })
	file, m := c.save()
	keys, err := readKeys(restored(t, file))
	if err != nil || !keys.has("secretbox/k3") || len(m.OtherKeys) > 0 {
		t.Errorf("the keys are %v, others %v, %v", keys.keys(), m.OtherKeys, err)
	}
}

func TestKeysOfTheOperatorAreNamed(t *testing.T) {
	c := start(t)
	c.put("/registry/secrets/default/a", "k8s:enc:kms:v2:vault:cipher")
	c.put("/registry/secrets/default/b", "k8s:enc:aescbc:v1:mine:cipher")
	c.put("/registry/secrets/default/c", "k8s:enc:aescbc:v1:of-before:cipher")
	c.put("/registry/secrets/default/c", "k8s:enc:aescbc:v1:mine:cipher")
	c.put("/registry/secrets/default/d", "k8s:enc:aescbc:v1:of-before:cipher")
	if _, err := c.Delete(t.Context(), "/registry/secrets/default/d"); err != nil {
		t.Fatal(err)
	}
	file, _ := c.save()
	m, err := ReadManifest(file)
	if diff := cmp.Diff([]string{"aescbc/mine", "kms/vault"}, m.OtherKeys); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	if _, err := os.Stat(restored(t, file).EncryptionConfig()); !os.IsNotExist(err) {
		t.Errorf("there is a file of keys: %v", err)
	}
}

func TestFileThatIsNotASnapshotIsRefusedAndLeavesNothing(t *testing.T) {
	c := start(t)
	c.setKeys("k1")
	file, m := c.save()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	change := func(old, new string) []byte {
		if !strings.Contains(string(whole), old) || len(old) != len(new) {
			t.Fatalf("cannot replace %q by %q", old, new)
		}
		return []byte(strings.Replace(string(whole), old, new, 1))
	}
	for want, data := range map[string][]byte{
		"it is no snapshot of km":            []byte("x"),
		"it does not begin with":             nil,
		"it is not whole: etcd.db":           whole[:len(whole)-8192],
		"it has format 2, and this km reads": change(`"format": 1`, `"format": 2`),
		"it is damaged: the checksum":        change("k8s:enc:secretbox:v1:k1:cipher", "k8s:enc:secretbox:v1:k1:cypher"),
		"its CA is " + m.CA:                  change(m.CA, strings.Repeat("0", len(m.CA))),
		"cannot read its manifest: ":         change(`"format"`, `"format}`),
	} {
		bad, dir := filepath.Join(t.TempDir(), "bad.tar"), statedir.Dir(t.TempDir())
		if err := os.WriteFile(bad, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(bad, dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if left, err := os.ReadDir(string(dir)); err != nil || len(left) > 0 {
			t.Errorf("%s left %v, %v", want, left, err)
		}
	}
	for _, size := range []int{512, 5000, len(whole) / 2, len(whole) - 2048} {
		cut := filepath.Join(t.TempDir(), "cut.tar")
		if err := os.WriteFile(cut, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(cut, statedir.Dir(t.TempDir())); err == nil {
			t.Errorf("the first %d of %d bytes are taken for a snapshot", size, len(whole))
		}
	}
}

func TestNamesOutsideAreRefused(t *testing.T) {
	for _, name := range []string{"../evil", "/evil", "pki/../../evil"} {
		file := filepath.Join(t.TempDir(), "evil.tar")
		if err := writeArchive(file, &Manifest{Format: format}, []content{{name: name, data: []byte("x")}}); err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(file, statedir.Dir(filepath.Join(t.TempDir(), "a", "b"))); err == nil || !strings.Contains(err.Error(), "is not as the manifest says") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStateDirectoryIsNeverOverwritten(t *testing.T) {
	c := start(t)
	file, _ := c.save()
	before, err := os.ReadFile(c.dir.CA())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(file, c.dir); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("got %v", err)
	}
	if after, err := os.ReadFile(c.dir.CA()); err != nil || string(after) != string(before) {
		t.Errorf("the CA has changed, %v", err)
	}
}

func TestMemberThatIsAwayIsLeftOut(t *testing.T) {
	c := start(t)
	c.etcd.Endpoints = slices.Concat([]string{"http://127.0.0.1:1"}, c.etcd.Endpoints)
	if _, m := c.save(); m.CA == "" || m.Etcd.Version == "" {
		t.Errorf("the manifest is %+v", m)
	}
	c.etcd.Endpoints = c.etcd.Endpoints[:1]
	file := filepath.Join(t.TempDir(), "k8sm.tar")
	_, err := Save(t.Context(), Source{Dir: c.dir, Etcd: c.etcd}, file)
	if err == nil || !strings.Contains(err.Error(), "cannot copy etcd from http://127.0.0.1:1") {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestManifestNamesTheClustersCA(t *testing.T) {
	c := start(t)
	ca, err := c.dir.CACertificates()
	if err != nil {
		t.Fatal(err)
	}
	if _, m := c.save(); m.CA != state.AuthoritiesOf(ca)[0].SHA256 || m.Format != format {
		t.Errorf("the manifest is %+v", m)
	}
}
