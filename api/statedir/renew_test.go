package statedir

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// at prepares the directory at another time, and returns what was issued.
func at(t *testing.T, d Dir, s Spec, now time.Time) []string {
	t.Helper()
	s.Now = now
	issued, err := d.Renew(s)
	if err != nil {
		t.Fatal(err)
	}
	return issued
}

func TestEveryCertificateIsRenewedAfterTwoThirdsOfItsLife(t *testing.T) {
	d, s := Dir(t.TempDir()), spec()
	s.Lives = Lives{Leaf: 90 * time.Minute, Authority: 100 * time.Hour}
	first := at(t, d, s, now)
	authorities := []string{clusterAuthority, frontProxyAuthority, etcdAuthority, kubeletServingAuthority}
	leaves := slices.DeleteFunc(slices.Clone(first), func(name string) bool { return slices.Contains(authorities, name) })
	if len(leaves) != len(first)-len(authorities) || len(leaves) < 18 {
		t.Fatalf("issued %q", first)
	}
	if got := at(t, d, s, now.Add(58*time.Minute)); len(got) > 0 {
		t.Errorf("too early: %q", got)
	}
	keys := map[string]string{}
	for _, name := range leaves {
		keys[name] = contents(t, d)[d.key(name)]
	}
	slices.Sort(leaves)
	got := at(t, d, s, now.Add(62*time.Minute))
	slices.Sort(got)
	if diff := cmp.Diff(leaves, got); diff != "" {
		t.Errorf("after two thirds (-want +renewed):\n%s", diff)
	}
	for name, key := range keys {
		if contents(t, d)[d.key(name)] != key {
			t.Errorf("%s has another key: whoever reads between two files gets two that do not belong together", name)
		}
	}
}

func TestShorterLivesTakeEffect(t *testing.T) {
	d, s := Dir(t.TempDir()), spec()
	prepare(t, d, s)
	s.Lives.Leaf = 24 * time.Hour
	if got := at(t, d, s, now); !slices.Contains(got, string(APIServer)) || slices.Contains(got, clusterAuthority) {
		t.Errorf("renewed %q", got)
	}
	if got := at(t, d, s, now); len(got) > 0 {
		t.Errorf("and again %q", got)
	}
	if end := certOf(t, d.cert(string(APIServer))).NotAfter; !end.Equal(now.Add(24 * time.Hour)) {
		t.Errorf("it ends %s", end)
	}
}

func TestNoCertificateOutlivesItsAuthority(t *testing.T) {
	d, s := Dir(t.TempDir()), spec()
	s.Lives = Lives{Leaf: 10 * time.Hour, Authority: 12 * time.Hour}
	prepare(t, d, s)
	at(t, d, s, now.Add(8*time.Hour))
	if leaf, ca := certOf(t, d.cert(string(APIServer))), certOf(t, d.CA()); !leaf.NotAfter.Equal(ca.NotAfter) {
		t.Errorf("until %s, and its CA until %s", leaf.NotAfter, ca.NotAfter)
	}
}

func TestWrongClocks(t *testing.T) {
	d, s := Dir(t.TempDir()), spec()
	s.Lives.Authority = 20 * 365 * 24 * time.Hour
	prepare(t, d, s)
	s.Now = now.AddDate(-30, 0, 0)
	if _, err := d.Renew(s); err == nil || !strings.Contains(err.Error(), "clock says 1996") || !strings.Contains(err.Error(), "set the clock") {
		t.Errorf("in the past: %v", err)
	}
	s.Now = now.AddDate(30, 0, 0)
	if _, err := d.Renew(s); err == nil || !strings.Contains(err.Error(), "clock says 2056") || !strings.Contains(err.Error(), "set the clock") {
		t.Errorf("in the future: %v", err)
	}
	if got := at(t, d, s, now.AddDate(5, 0, 0)); !slices.Contains(got, string(APIServer)) {
		t.Errorf("five years ahead: %q", got)
	}
	// The clock is right again: certificates of the future are not valid yet.
	if got := at(t, d, s, now.Add(time.Hour)); !slices.Contains(got, string(APIServer)) {
		t.Errorf("back from the future: %q", got)
	}
	if cert := certOf(t, d.cert(string(APIServer))); cert.NotBefore.After(now.Add(time.Hour)) {
		t.Errorf("it is valid from %s", cert.NotBefore)
	}
}

func TestAClockThatIsSetIsNoticed(t *testing.T) {
	before := time.Now()
	after := before.Add(time.Minute)
	if by := jumped(before, after); by != 0 {
		t.Errorf("a minute later: %s", by)
	}
	if by := jumped(before.Round(0), after); by.Abs() > time.Second {
		t.Errorf("without a monotonic reading: %s", by)
	}
}

func TestLivesHaveBounds(t *testing.T) {
	for name, test := range map[string]struct {
		lives Lives
		want  string
	}{
		"default":   {Lives{}, ""},
		"30s":       {Lives{Leaf: 30 * time.Second}, ""},
		"too short": {Lives{Leaf: time.Second}, "--cert-lifetime=1s: give 30s or more"},
		"negative":  {Lives{Leaf: -time.Hour}, "give 30s or more"},
		"CA":        {Lives{Leaf: 2 * time.Hour, Authority: time.Hour}, "no certificate lasts longer than its CA"},
		"too long":  {Lives{Authority: 40 * 365 * 24 * time.Hour}, "30 years"},
	} {
		err := test.lives.Validate()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReplacedFilesKeepOwnerAndMode(t *testing.T) {
	d, s := Dir(t.TempDir()), spec()
	prepare(t, d, s)
	file := d.cert(string(SchedulerServer))
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	owned := os.Geteuid() == 0
	if owned {
		if err := os.Chown(file, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	at(t, d, s, now.AddDate(0, 9, 0))
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o640 || owned && ownerOf(info) != 65534 {
		t.Errorf("mode %v, owner %d", info.Mode(), ownerOf(info))
	}
}

// A process that dies between any two steps leaves files that the next one goes on with.
func TestRenewalGoesOnAfterACrash(t *testing.T) {
	d, s := Dir(t.TempDir()), spec()
	prepare(t, d, s)
	later := now.AddDate(0, 9, 0)
	for name, spoil := range map[string]func() error{
		"a half written file": func() error { return os.WriteFile(d.cert(string(APIServer))+".new", []byte("half"), 0o600) },
		"no certificate":      func() error { return os.Remove(d.cert(string(APIServer))) },
		"no certificate of a program, and no kubeconfig": func() error {
			return errors.Join(os.Remove(d.cert("scheduler")), os.Remove(d.SchedulerKubeconfig()))
		},
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		at(t, d, s, later)
		if _, err := tls.LoadX509KeyPair(d.Pair(APIServer)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		config, err := clientcmd.BuildConfigFromFlags("", d.SchedulerKubeconfig())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rest.TLSConfigFor(config); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A program may read the two files at any moment of a renewal.
func TestCertificateAndKeyAlwaysBelongTogether(t *testing.T) {
	d, s := Dir(t.TempDir()), spec()
	prepare(t, d, s)
	ctx, cancel := context.WithCancel(t.Context())
	read := make(chan int)
	go func() {
		reads := 0
		for ; ctx.Err() == nil; reads++ {
			if _, err := tls.LoadX509KeyPair(d.Pair(APIServer)); err != nil {
				t.Errorf("after %d reads: %v", reads, err)
				break
			}
		}
		read <- reads
	}()
	for i := range 10 {
		if got := at(t, d, s, now.AddDate(0, 9*(i+1), 0)); len(got) == 0 {
			t.Errorf("nothing was renewed the %d. time", i)
		}
	}
	cancel()
	if reads := <-read; reads < 10 {
		t.Errorf("only %d reads", reads)
	}
}

func TestKubeconfigsOfProgramsWorkWhereTheyAreCopied(t *testing.T) {
	d := Dir(t.TempDir())
	prepare(t, d, spec())
	elsewhere := Dir(filepath.Join(t.TempDir(), "elsewhere"))
	for _, file := range []string{d.SchedulerKubeconfig(), d.CA(), d.cert("scheduler"), d.key("scheduler")} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeFile(strings.Replace(file, string(d), string(elsewhere), 1), data); err != nil {
			t.Fatal(err)
		}
	}
	config, err := clientcmd.BuildConfigFromFlags("", elsewhere.SchedulerKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rest.TLSConfigFor(config); err != nil || config.CertFile != elsewhere.cert("scheduler") {
		t.Errorf("%s: %v", config.CertFile, err)
	}
}

func TestAdministratorsKubeconfigIsWhole(t *testing.T) {
	d := Dir(t.TempDir())
	prepare(t, d, spec())
	config, err := clientcmd.BuildConfigFromFlags("", d.AdminKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if config.CertFile+config.KeyFile+config.CAFile != "" || len(config.CertData)*len(config.KeyData)*len(config.CAData) == 0 {
		t.Errorf("it names the files %q %q %q", config.CAFile, config.CertFile, config.KeyFile)
	}
}

func TestCertificatesAreRenewedWhileAProgramRuns(t *testing.T) {
	d := Dir(t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		s := spec()
		s.Lives = Lives{Leaf: time.Hour, Authority: 1000 * time.Hour}
		if err := d.Prepare(func() Spec { s.Now = time.Now(); return s }()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
		defer cancel()
		var looking sync.WaitGroup
		looking.Go(func() {
			for ctx.Err() == nil {
				for _, file := range []string{d.cert(string(APIServer)), d.cert("admin"), d.cert(string(EtcdServer))} {
					certs, err := certutil.CertsFromFile(file)
					if err != nil {
						t.Error(err)
						return
					}
					if left := time.Until(certs[0].NotAfter); left < 19*time.Minute {
						t.Errorf("%s lasts %s more", file, left)
					}
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Minute):
				}
			}
		})
		if err := d.KeepRenewed(ctx, func(now time.Time) Spec { s.Now = now; return s }); err != nil {
			t.Error(err)
		}
		looking.Wait()
		if cert := certOf(t, d.cert(string(APIServer))); time.Until(cert.NotAfter) < 20*time.Minute-lookEvery {
			t.Errorf("after two hours it ends %s", cert.NotAfter)
		}
	})
	if _, err := os.Stat(d.cert(string(APIServer)) + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file is left: %v", err)
	}
}

// ownerOf is the id of the file's user.
func ownerOf(info os.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

func TestReissuedCertificatesAreLikeTheFormerOnes(t *testing.T) {
	d, s := Dir(t.TempDir()), spec()
	s.Lives.Leaf = 100 * 24 * time.Hour
	prepare(t, d, s)
	before, err := d.Certificates()
	if err != nil {
		t.Fatal(err)
	}
	later := now.Add(24 * time.Hour)
	issued, err := d.Reissue(later, "apiserver", "admin")
	if diff := cmp.Diff([]string{"apiserver", "admin"}, issued); err != nil || diff != "" {
		t.Fatalf("%v (-want +issued):\n%s", err, diff)
	}
	after, err := d.Certificates()
	if err != nil {
		t.Fatal(err)
	}
	for i, old := range before {
		fresh := after[i]
		if old.Name != "apiserver" && old.Name != "admin" {
			if !fresh.Equal(old.Certificate) {
				t.Errorf("%s was issued again, too", old.Name)
			}
			continue
		}
		same := slices.Equal(fresh.DNSNames, old.DNSNames) && fresh.Subject.String() == old.Subject.String() && slices.Equal(fresh.ExtKeyUsage, old.ExtKeyUsage)
		if !same || fresh.NotAfter.Sub(old.NotAfter) != 24*time.Hour || fresh.NotBefore.Sub(old.NotBefore) != 24*time.Hour {
			t.Errorf("%s: %v to %v, was %v to %v", old.Name, fresh.NotBefore, fresh.NotAfter, old.NotBefore, old.NotAfter)
		}
	}
	if issued := at(t, d, s, later); len(issued) > 0 { // a control plane finds nothing to do
		t.Errorf("and again %q", issued)
	}
	config, err := clientcmd.BuildConfigFromFlags("", d.AdminKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if certs, err := certutil.ParseCertsPEM(config.CertData); err != nil || !certs[0].Equal(certOf(t, d.cert("admin"))) {
		t.Errorf("the administrator's kubeconfig has another certificate: %v", err)
	}
}

func TestOnlyCertificatesThatThereAreCanBeReissued(t *testing.T) {
	d := Dir(t.TempDir())
	if _, err := d.Reissue(now); !errors.Is(err, ErrNoCluster) {
		t.Errorf("without a cluster: %v", err)
	}
	prepare(t, d, spec())
	before := contents(t, d)
	for name, want := range map[string]string{"ca": "it is a CA's", "nobody": "there are apiserver, "} {
		if _, err := d.Reissue(now, "apiserver", name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if diff := cmp.Diff(before, contents(t, d)); diff != "" {
		t.Errorf("files changed (-before +after):\n%s", diff)
	}
}

// A process may die between any two steps, and programs may start then.
func TestTokensAreTrustedAtEachMomentOfARotation(t *testing.T) {
	d := Dir(t.TempDir())
	prepare(t, d, spec())
	trusted := func() []string {
		t.Helper()
		keys, err := keyutil.PublicKeysFromFile(d.ServiceAccountKeys())
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, key := range keys {
			id, err := keyID(key)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		return ids
	}
	state := func() TokenKeys {
		t.Helper()
		keys, err := d.TokenKeys()
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	check := func(when string, want ...string) {
		t.Helper()
		prepare(t, d, spec()) // a start
		if diff := cmp.Diff(want, trusted()); diff != "" {
			t.Errorf("%s (-want +trusted):\n%s", when, diff)
		}
	}
	first := state()
	check("at the start", first.Current)
	if err := d.AddTokenKey(); err != nil {
		t.Fatal(err)
	}
	both := state()
	check("after begin", first.Current, both.Next)
	// The process that replaces the key dies before it does.
	current, err := readKey(d.ServiceAccountKey())
	if err != nil {
		t.Fatal(err)
	}
	text, err := encodePublic(current.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFile(d.oldServiceAccountKey(), text); err != nil {
		t.Fatal(err)
	}
	check("in the middle", first.Current, both.Next)
	if err := d.UseTokenKey(); err != nil {
		t.Fatal(err)
	}
	check("after issue", both.Next, first.Current)
	if s := state(); s.Current != both.Next || s.Old != first.Current || s.Next != "" || time.Since(s.Replaced) > time.Minute {
		t.Errorf("after issue: %+v", s)
	}
	if err := d.ForgetTokenKey(); err != nil {
		t.Fatal(err)
	}
	check("after finish", both.Next)
}

func TestCertificatesOfAMemberOfEtcdAreShownAndReissued(t *testing.T) {
	d := Dir(t.TempDir())
	if err := d.PrepareEtcd(EtcdSpec{Now: now, Names: []string{"10.0.0.1"}, New: true}); err != nil {
		t.Fatal(err)
	}
	all, err := d.Certificates()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	if diff := cmp.Diff([]string{"etcd-ca", "etcd-client", "etcd-member", "etcd-peer"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := d.Reissue(now.Add(time.Hour), string(EtcdPeer)); err != nil {
		t.Fatal(err)
	}
	if err := certOf(t, d.cert(string(EtcdPeer))).CheckSignatureFrom(certOf(t, d.EtcdCA())); err != nil {
		t.Errorf("the peers' certificate: %v", err)
	}
}
