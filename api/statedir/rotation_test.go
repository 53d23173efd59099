package statedir

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"
)

// step calls a step of the rotation of all CAs.
type step struct {
	name string
	do   func(Dir, time.Time) error
}

var (
	begin  = step{"begin", func(d Dir, at time.Time) error { return d.BeginRotation(at, Lives{}, authorityNames...) }}
	issue  = step{"issue", func(d Dir, at time.Time) error { return d.IssueRotation(at, authorityNames...) }}
	finish = step{"finish", func(d Dir, at time.Time) error { return d.FinishRotation(at, authorityNames...) }}
	abort  = step{"abort", func(d Dir, at time.Time) error { return d.AbortRotation(at, authorityNames...) }}
)

// roots are certificates that somebody trusts.
func roots(certs ...*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool
}

func certsOf(t *testing.T, file string) []*x509.Certificate {
	t.Helper()
	certs, err := certutil.CertsFromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

// believed checks that each certificate in the directory belongs to its key, and is believed by who trusts the CAs there now, and by who
// has read them before and knows only these. It returns how many CAs signed them.
func believed(t *testing.T, d Dir, before map[string]*x509.Certificate, at time.Time) {
	t.Helper()
	for _, name := range d.leafNames() {
		if _, err := os.Stat(d.cert(name)); errors.Is(err, os.ErrNotExist) {
			continue
		}
		if _, err := tls.LoadX509KeyPair(d.cert(name), d.key(name)); err != nil {
			t.Error(err)
		}
		certs, ca := certsOf(t, d.cert(name)), d.authorityOf(name)
		trusting := map[string]*x509.CertPool{"trusts the CAs there now": roots(certsOf(t, d.cert(ca))...)}
		if before != nil {
			trusting["has read the CA before"] = roots(before[ca])
		}
		for who, pool := range trusting {
			_, err := certs[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: roots(certs[1:]...), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			if err != nil {
				t.Errorf("who %s does not believe %s: %v", who, name, err)
			}
		}
	}
}

// issuers are the CAs that signed the leaves of each CA, by their common names.
func issuers(t *testing.T, d Dir) map[string][]string {
	t.Helper()
	by := map[string]map[string]bool{}
	for _, name := range d.leafNames() {
		if _, err := os.Stat(d.cert(name)); errors.Is(err, os.ErrNotExist) {
			continue
		}
		ca := d.authorityOf(name)
		if by[ca] == nil {
			by[ca] = map[string]bool{}
		}
		by[ca][certOf(t, d.cert(name)).Issuer.CommonName] = true
	}
	list := map[string][]string{}
	for ca, names := range by {
		list[ca] = slices.Sorted(maps.Keys(names))
	}
	return list
}

func phases(t *testing.T, d Dir) (list []Phase) {
	t.Helper()
	all, err := d.Rotations()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		list = append(list, r.Phase)
	}
	return slices.Compact(list)
}

func firstAuthorities(t *testing.T, d Dir) map[string]*x509.Certificate {
	t.Helper()
	first := map[string]*x509.Certificate{}
	for _, name := range authorityNames {
		first[name] = certOf(t, d.cert(name))
	}
	return first
}

// whole makes all certificates that there can be.
func whole(t *testing.T) Dir {
	t.Helper()
	d := Dir(t.TempDir())
	prepare(t, d, spec())
	if err := d.PrepareEtcd(EtcdSpec{Now: now, Names: []string{"10.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestCAsAreReplacedAndNobodyIsRefusedMeanwhile(t *testing.T) {
	d := whole(t)
	first := firstAuthorities(t, d)
	keys := map[string]string{}
	for _, name := range authorityNames {
		keys[name] = contents(t, d)[d.key(name)]
	}
	later := now.Add(24 * time.Hour)
	old := issuers(t, d)
	for _, test := range []struct {
		step
		phase Phase
		by    func(ca, issuer string) bool
	}{
		{begin, Begun, func(ca, issuer string) bool { return issuer == commonNames[ca] }},
		{begin, Begun, func(ca, issuer string) bool { return issuer == commonNames[ca] }},
		{issue, Issued, func(ca, issuer string) bool { return issuer == commonNames[ca]+"-20261123-120000" }},
		{issue, Issued, func(ca, issuer string) bool { return issuer == commonNames[ca]+"-20261123-120000" }},
		{finish, Steady, func(ca, issuer string) bool { return issuer == commonNames[ca]+"-20261123-120000" }},
	} {
		if err := test.do(d, later); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if diff := cmp.Diff([]Phase{test.phase}, phases(t, d)); diff != "" {
			t.Errorf("after %s: %s", test.name, diff)
		}
		for ca, names := range issuers(t, d) {
			if len(names) != 1 || !test.by(ca, names[0]) {
				t.Errorf("after %s, certificates of %s are from %q", test.name, ca, names)
			}
		}
		believed(t, d, first, later)
		if issued := at(t, d, spec(), later); len(issued) > 0 { // a control plane finds nothing to do
			t.Errorf("after %s, a control plane issues %q", test.name, issued)
		}
		believed(t, d, first, later)
	}
	if diff := cmp.Diff(old, issuers(t, d)); diff == "" {
		t.Error("all is as before")
	}
	for path, content := range contents(t, d) {
		for name, key := range keys {
			if content == key {
				t.Errorf("%s has the former key of %s", path, name)
			}
		}
	}
	for _, name := range authorityNames {
		if certs := certsOf(t, d.cert(name)); len(certs) != 1 || certs[0].Equal(first[name]) {
			t.Errorf("%s has %d certificates", name, len(certs))
		}
	}
	testOldCertificateIsRefused(t, d, first)
}

// testOldCertificateIsRefused checks that nothing of the former CA is believed, with what vouches for the new one at hand.
func testOldCertificateIsRefused(t *testing.T, d Dir, first map[string]*x509.Certificate) {
	t.Helper()
	for name, ca := range first {
		_, err := ca.Verify(x509.VerifyOptions{Roots: roots(certsOf(t, d.cert(name))...), Intermediates: roots(certsOf(t, d.crossed(name))...), CurrentTime: now.Add(time.Hour)})
		if err == nil {
			t.Errorf("the former %s is still believed", name)
		}
	}
}

// A step stops before it writes a file, as one that is killed. Then everything works, and the step can be called again.
func TestStepsOfARotationMayBeKilled(t *testing.T) {
	later := now.Add(24 * time.Hour)
	for _, test := range []struct {
		before []step
		step
	}{
		{nil, begin}, {[]step{begin}, issue}, {[]step{begin, issue}, finish}, {[]step{begin}, abort}, {[]step{begin, issue}, abort},
	} {
		made := whole(t)
		first := firstAuthorities(t, made)
		for _, s := range test.before {
			if err := s.do(made, later); err != nil {
				t.Fatal(err)
			}
		}
		ready := func() Dir {
			d := Dir(t.TempDir())
			if err := os.CopyFS(string(d), os.DirFS(string(made))); err != nil {
				t.Fatal(err)
			}
			return d
		}
		d := ready()
		if err := test.do(d, later); err != nil {
			t.Fatal(err)
		}
		want, before := phases(t, d), contents(t, made)
		var written []string
		for path, content := range contents(t, d) {
			file := strings.TrimPrefix(path, string(d))
			if before[string(made)+file] != content && killedAt.MatchString(file) {
				written = append(written, file)
			}
		}
		if len(written) < 4 {
			t.Errorf("%s writes %q only", test.name, written)
		}
		for _, file := range written {
			t.Run(fmt.Sprintf("%d steps, %s without %s", len(test.before), test.name, filepath.Base(file)), func(t *testing.T) {
				d := ready()
				killedBefore(t, d, file, func() error { return test.do(d, later) })
				believed(t, d, first, later)
				at(t, d, spec(), later) // a control plane starts, or looks
				believed(t, d, first, later)
				if diff := cmp.Diff(want, phases(t, d)); diff == "" {
					return // killed after what counts: a control plane has done the rest
				}
				if err := test.do(d, later); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, phases(t, d)); diff != "" {
					t.Error(diff)
				}
				believed(t, d, first, later)
			})
		}
	}
}

// killedAt are the files of two CAs, and some of those that follow from them.
var killedAt = regexp.MustCompile(`/(kubelet-serving-ca|ca)[^/]*$|kubelet-trust|/apiserver.crt|admin`)

// killedBefore lets the step fail where it would write the file.
func killedBefore(t *testing.T, d Dir, file string, do func() error) {
	t.Helper()
	block := d.path(file) + ".new"
	if err := os.MkdirAll(filepath.Join(block, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := do(); err == nil {
		t.Errorf("it does not write %s", file)
	}
	if err := os.RemoveAll(block); err != nil {
		t.Fatal(err)
	}
}

func TestRotationGoesBack(t *testing.T) {
	d := whole(t)
	first, later := firstAuthorities(t, d), now.Add(time.Hour)
	for _, s := range []step{begin, issue, abort} {
		if err := s.do(d, later); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]Phase{Begun}, phases(t, d)); diff != "" {
		t.Error(diff)
	}
	believed(t, d, first, later)
	if err := abort.do(d, later); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, firstAuthorities(t, d), cmp.Comparer((*x509.Certificate).Equal)); diff != "" || len(certsOf(t, d.CA())) != 1 {
		t.Errorf("the CAs are others: %s", diff)
	}
	for ca, names := range issuers(t, d) {
		if diff := cmp.Diff([]string{commonNames[ca]}, names); diff != "" {
			t.Error(diff)
		}
	}
	for path := range contents(t, d) {
		if strings.Contains(path, "-next") || strings.Contains(path, "-old") || strings.Contains(path, "-crossed") {
			t.Errorf("%s is left", path)
		}
	}
}

func TestStepsOfARotationAreRefusedOutOfOrder(t *testing.T) {
	d := whole(t)
	before := contents(t, d)
	for name, err := range map[string]error{
		"there is none; begin first": issue.do(d, now), "there is no former CA": finish.do(d, now), "no other CA": abort.do(d, now),
	} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q", err, name)
		}
	}
	if diff := cmp.Diff(before, contents(t, d)); diff != "" {
		t.Errorf("files changed:\n%s", diff)
	}
	if err := errors.Join(begin.do(d, now), issue.do(d, now)); err != nil {
		t.Fatal(err)
	}
	if err := begin.do(d, now); err == nil || !strings.Contains(err.Error(), "finish that first") {
		t.Errorf("a second rotation: %v", err)
	}
	if _, err := d.Rotations("sa"); err == nil || !strings.Contains(err.Error(), "there are ca, ") {
		t.Errorf("an unknown CA: %v", err)
	}
}

func TestOneCAIsReplacedAndTheOthersStay(t *testing.T) {
	d := whole(t)
	first := firstAuthorities(t, d)
	err := errors.Join(d.BeginRotation(now, Lives{}, kubeletServingAuthority), d.IssueRotation(now, kubeletServingAuthority), d.FinishRotation(now, kubeletServingAuthority))
	if err != nil {
		t.Fatal(err)
	}
	for name, ca := range firstAuthorities(t, d) {
		if ca.Equal(first[name]) != (name != kubeletServingAuthority) {
			t.Errorf("%s", name)
		}
	}
	if certs := certsOf(t, d.KubeletTrust()); len(certs) != 1 || !certs[0].Equal(certOf(t, d.KubeletServingCA())) {
		t.Errorf("the API server trusts %d CAs of kubelets", len(certs))
	}
}

// The signer of kube-controller-manager takes one certificate only.
func TestIssuerIsTheOneCertificateOfTheKey(t *testing.T) {
	d := whole(t)
	for _, s := range []step{begin, issue, finish} {
		if err := s.do(d, now); err != nil {
			t.Fatal(err)
		}
		for _, files := range [][2]string{{d.CAIssuer(), d.CAKey()}, {d.KubeletServingIssuer(), d.KubeletServingCAKey()}} {
			if _, err := tls.LoadX509KeyPair(files[0], files[1]); err != nil || len(certsOf(t, files[0])) != 1 {
				t.Errorf("after %s: %v", s.name, err)
			}
		}
	}
}

func TestAdministratorsKubeconfigFollowsARotation(t *testing.T) {
	d := whole(t)
	for want, s := range []step{{}, begin, issue, finish} {
		if want > 0 {
			if err := s.do(d, now); err != nil {
				t.Fatal(err)
			}
		}
		config, err := clientcmd.BuildConfigFromFlags("", d.AdminKubeconfig())
		if err != nil {
			t.Fatal(err)
		}
		ca, err := os.ReadFile(d.CA())
		if err != nil || string(config.CAData) != string(ca) {
			t.Errorf("after %s it has other CAs: %v", s.name, err)
		}
		if _, err := tls.X509KeyPair(config.CertData, config.KeyData); err != nil {
			t.Errorf("after %s: %v", s.name, err)
		}
		if own, err := os.ReadFile(d.cert(adminName)); err != nil || string(own) != string(config.CertData) {
			t.Errorf("after %s it has another certificate: %v", s.name, err)
		}
	}
}

func TestOtherControlPlanesFollowByImport(t *testing.T) {
	one, two := whole(t), Dir(t.TempDir())
	follow := func() error {
		files, err := one.Authorities()
		if err != nil {
			t.Fatal(err)
		}
		return two.ImportAuthorities(files, now)
	}
	if err := follow(); err != nil {
		t.Fatal(err)
	}
	prepare(t, two, spec())
	first := firstAuthorities(t, two)
	for _, s := range []step{begin, issue, finish} {
		if err := s.do(one, now); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := follow(); err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
		}
		believed(t, two, first, now)
		if diff := cmp.Diff(issuers(t, one)[clusterAuthority], issuers(t, two)[clusterAuthority]); diff != "" {
			t.Errorf("after %s: %s", s.name, diff)
		}
	}
	here, err := one.Authorities()
	if err != nil {
		t.Fatal(err)
	}
	there, err := two.Authorities()
	if diff := cmp.Diff(here, there); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	foreign := whole(t)
	files, err := foreign.Authorities()
	if err != nil {
		t.Fatal(err)
	}
	if err := two.ImportAuthorities(files, now); !errors.Is(err, ErrOtherAuthorities) {
		t.Errorf("another cluster's: %v", err)
	}
}

func TestSecondRotationStillLeadsFromTheFirstCA(t *testing.T) {
	d := whole(t)
	first := firstAuthorities(t, d)
	for i, s := range []step{begin, issue, finish, begin, issue} {
		if err := s.do(d, now.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	believed(t, d, first, now.Add(time.Minute))
}
