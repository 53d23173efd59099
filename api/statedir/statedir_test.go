package statedir

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"

	"github.com/k8sm/k8sm/api"
)

var now = time.Date(2026, time.November, 22, 12, 0, 0, 0, time.UTC)

func spec() Spec {
	return Spec{
		Now: now, ServerURL: "https://127.0.0.1:6443",
		ServerNames: []string{"localhost", "127.0.0.1", "127.0.0.1"}, EtcdNames: []string{"127.0.0.1"},
	}
}

func prepare(t *testing.T, d Dir, s Spec) {
	t.Helper()
	if err := d.Prepare(s); err != nil {
		t.Fatal(err)
	}
}

func certOf(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	certs, err := certutil.CertsFromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

// contents returns all files below the directory.
func contents(t *testing.T, d Dir) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(string(d), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestCertificatesVerifyForTheirPurpose(t *testing.T) {
	d := Dir(t.TempDir())
	prepare(t, d, spec())
	for _, test := range []struct {
		name  Leaf
		ca    string
		usage x509.ExtKeyUsage
		host  string
	}{
		{APIServer, d.CA(), x509.ExtKeyUsageServerAuth, "127.0.0.1"},
		{APIServer, d.CA(), x509.ExtKeyUsageServerAuth, "localhost"},
		{KubeletClient, d.CA(), x509.ExtKeyUsageClientAuth, ""},
		{FrontProxyClient, d.FrontProxyCA(), x509.ExtKeyUsageClientAuth, ""},
		{EtcdServer, d.EtcdCA(), x509.ExtKeyUsageServerAuth, "127.0.0.1"},
		{SchedulerServer, d.CA(), x509.ExtKeyUsageServerAuth, "127.0.0.1"},
		{SchedulerServer, d.CA(), x509.ExtKeyUsageServerAuth, SchedulerServerName},
		{DNSServer, d.CA(), x509.ExtKeyUsageServerAuth, DNSServerName},
		{MetricsServer, d.CA(), x509.ExtKeyUsageServerAuth, MetricsServerName},
		{LogsServer, d.CA(), x509.ExtKeyUsageServerAuth, "k8sm-logs.kube-system.svc"},
		{APIServerEtcdClient, d.EtcdCA(), x509.ExtKeyUsageClientAuth, ""},
		{MetricsEtcdClient, d.EtcdCA(), x509.ExtKeyUsageClientAuth, ""},
	} {
		file, _ := d.Pair(test.name)
		roots := x509.NewCertPool()
		roots.AddCert(certOf(t, test.ca))
		_, err := certOf(t, file).Verify(x509.VerifyOptions{
			Roots: roots, KeyUsages: []x509.ExtKeyUsage{test.usage}, DNSName: test.host, CurrentTime: now,
		})
		if err != nil {
			t.Errorf("%s for %q: %v", test.name, test.host, err)
		}
	}
}

func TestClientCertificateCannotServe(t *testing.T) {
	d := Dir(t.TempDir())
	prepare(t, d, spec())
	roots := x509.NewCertPool()
	roots.AddCert(certOf(t, d.CA()))
	file, _ := d.Pair(KubeletClient)
	_, err := certOf(t, file).Verify(x509.VerifyOptions{
		Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, CurrentTime: now,
	})
	if err == nil {
		t.Error("a client's certificate verifies as a server's")
	}
}

// The CA of kubelets' serving certificates came later than the others.
func TestKubeletsOfAnOlderClusterAreTrustedForAWhile(t *testing.T) {
	d := Dir(t.TempDir())
	trusted := func(at time.Time) (names []string) {
		s := spec()
		s.Now = at
		prepare(t, d, s)
		certs, err := certutil.CertsFromFile(d.KubeletTrust())
		if err != nil {
			t.Fatal(err)
		}
		for _, cert := range certs {
			names = append(names, cert.Subject.CommonName)
		}
		return names
	}
	alone, both := []string{"k8sm-kubelet-serving"}, []string{"k8sm-kubelet-serving", "k8sm"}
	check := func(at time.Time, want []string) {
		t.Helper()
		if diff := cmp.Diff(want, trusted(at)); diff != "" {
			t.Errorf("at %s the API server trusts (-want +got):\n%s", at, diff)
		}
	}
	const day = 24 * time.Hour
	check(now, alone)
	check(now.Add(day), alone)
	for _, file := range []string{d.KubeletServingCA(), d.KubeletServingCAKey()} {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	check(now.Add(10*day), both)
	check(now.Add(39*day), both)
	check(now.Add(41*day), alone)
}

func TestKubeconfigsCarryTheirUsers(t *testing.T) {
	d := Dir(t.TempDir())
	prepare(t, d, spec())
	for file, want := range map[string][]string{
		d.AdminKubeconfig():             {"kubernetes-admin", "system:masters"},
		d.SchedulerKubeconfig():         {api.SchedulerUser},
		d.DNSKubeconfig():               {api.DNSUser},
		d.MetricsKubeconfig():           {api.MetricsUser},
		d.ControllerManagerKubeconfig(): {"system:kube-controller-manager"},
	} {
		config, err := clientcmd.BuildConfigFromFlags("", file)
		if err != nil {
			t.Fatal(err)
		}
		if err := rest.LoadTLSFiles(config); err != nil {
			t.Fatal(err)
		}
		certs, err := certutil.ParseCertsPEM(config.CertData)
		if err != nil {
			t.Fatal(err)
		}
		subject := certs[0].Subject
		if diff := cmp.Diff(want, append([]string{subject.CommonName}, subject.Organization...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
		if config.Host != "https://127.0.0.1:6443" {
			t.Errorf("%s: server %s", file, config.Host)
		}
	}
}

func TestFilesAreReadableByTheirOwnerOnly(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "state"))
	prepare(t, d, spec())
	for file := range contents(t, d) {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", file, info.Mode())
		}
	}
}

func TestRestartKeepsEveryFile(t *testing.T) {
	d := Dir(t.TempDir())
	prepare(t, d, spec())
	before := contents(t, d)
	later := spec()
	later.Now = now.Add(30 * 24 * time.Hour)
	prepare(t, d, later)
	if diff := cmp.Diff(before, contents(t, d)); diff != "" {
		t.Errorf("files changed (-before +after):\n%s", diff)
	}
}

func TestCertificateIsIssuedAgainWhenItMust(t *testing.T) {
	for name, change := range map[string]func(*Spec){
		"near its end": func(s *Spec) { s.Now = now.AddDate(0, 9, 0) },
		"other names":  func(s *Spec) { s.ServerNames = append(s.ServerNames, "10.0.0.1") },
	} {
		t.Run(name, func(t *testing.T) {
			d := Dir(t.TempDir())
			prepare(t, d, spec())
			file, _ := d.Pair(APIServer)
			ca, old := certOf(t, d.CA()), certOf(t, file)
			changed := spec()
			change(&changed)
			prepare(t, d, changed)
			if certOf(t, file).Equal(old) {
				t.Error("the certificate is still the old one")
			}
			if !certOf(t, d.CA()).Equal(ca) {
				t.Error("the authority is another")
			}
		})
	}
}

func TestAuthorityIsNeverReplaced(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, Dir, *Spec){
		"expired":  func(_ *testing.T, _ Dir, s *Spec) { s.Now = now.Add(defaultAuthorityLife + time.Hour) },
		"lost key": func(t *testing.T, d Dir, _ *Spec) { remove(t, d.CAKey()) },
		"unreadable": func(t *testing.T, d Dir, _ *Spec) {
			if err := writeFile(d.CA(), []byte("no certificate")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := Dir(t.TempDir())
			prepare(t, d, spec())
			s := spec()
			spoil(t, d, &s)
			before := contents(t, d)[d.CA()]
			if err := d.Prepare(s); err == nil || !strings.Contains(err.Error(), "pki/ca.") {
				t.Errorf("got %v, want an error that names the file", err)
			}
			if after := contents(t, d)[d.CA()]; after != before {
				t.Error("the authority was overwritten")
			}
		})
	}
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

func TestEtcdIsFoundWhereItWasRecorded(t *testing.T) {
	d := Dir(t.TempDir())
	if _, err := d.Etcd(); !errors.Is(err, ErrNoCluster) {
		t.Errorf("before: got %v, want ErrNoCluster", err)
	}
	want := Etcd{Endpoints: []string{"https://127.0.0.1:2379"}, CAFile: "ca", CertFile: "cert", KeyFile: "key"}
	if err := d.WriteEtcd(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.Etcd()
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("got %v (-want +got):\n%s", err, diff)
	}
}

func TestOnlyOneProcessHasARoleInADirectory(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "state"))
	unlock, err := d.Lock("up")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lock("up"); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("got %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	unlock, err = d.Lock("up")
	if err != nil {
		t.Fatalf("after unlock: %v", err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
}

func TestOnlyPeoplesKubeconfigLeadsToTheEndpoint(t *testing.T) {
	dir := Dir(t.TempDir())
	spec := Spec{Now: time.Now(), ServerURL: "https://192.0.2.1:6443", PublicURL: "https://all.example:6443"}
	if err := dir.Prepare(spec); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{dir.AdminKubeconfig(): spec.PublicURL, dir.SchedulerKubeconfig(): spec.ServerURL, dir.ControllerManagerKubeconfig(): spec.ServerURL} {
		if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), "server: "+want+"\n") {
			t.Errorf("%s does not lead to %s, %v", file, want, err)
		}
	}
}
