package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api/statedir"
)

// certs runs km certs on a directory.
func certs(t *testing.T, dir statedir.Dir, args ...string) (status int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	status = Run(append([]string{"--state-dir", string(dir), "certs"}, args...), &o, &e)
	return status, o.String(), e.String()
}

func TestCertificatesAreShownAndRenewed(t *testing.T) {
	dir := statedir.Dir(t.TempDir())
	if status, _, errs := certs(t, dir); status != exitFailed || !strings.Contains(errs, "no cluster in") {
		t.Errorf("without a cluster: %d, %s", status, errs)
	}
	made := time.Now().AddDate(0, 0, -100)
	if err := dir.Prepare(statedir.Spec{Now: made, ServerURL: "https://127.0.0.1", ServerNames: []string{"127.0.0.1"}, EtcdNames: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	status, out, errs := certs(t, dir)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if status != 0 || len(lines) < 20 || !strings.HasPrefix(lines[0], "NAME ") || !strings.HasPrefix(lines[1], "ca ") || !strings.HasSuffix(lines[1], "<never>") {
		t.Errorf("%d, %s\n%s", status, errs, out)
	}
	if _, out, _ := certs(t, dir, "--no-headers", "-o", "wide", "apiserver"); strings.Count(out, "\n") != 1 || !strings.Contains(out, "/pki/apiserver.crt") {
		t.Errorf("wide, without headers: %s", out)
	}
	show := func(name string) (c certificate) {
		t.Helper()
		if status, out, errs := certs(t, dir, name, "-o", "json"); status != 0 || json.Unmarshal([]byte(out), &c) != nil {
			t.Fatalf("%d, %s\n%s", status, errs, out)
		}
		return c
	}
	c := show("scheduler")
	if c.Subject != "CN=system:k8sm-scheduler" || c.Issuer != "CN=k8sm" || c.DaysLeft < 263 || c.DaysLeft > 265 || c.RenewedAt == nil || c.RenewedAt.Before(made.AddDate(0, 0, 240)) {
		t.Errorf("%+v", c)
	}
	if status, out, errs := certs(t, dir, "renew", "scheduler"); status != 0 || out != "renewed scheduler\n" {
		t.Errorf("renew: %d, %s%s", status, out, errs)
	}
	if c := show("scheduler"); c.DaysLeft < 363 {
		t.Errorf("renewed: %+v", c)
	}
	if c := show("apiserver"); c.DaysLeft > 300 {
		t.Errorf("not renewed: %+v", c)
	}
	for name, want := range map[string]string{"ca": "it is a CA's", "nobody": "there is no such certificate"} {
		if status, _, errs := certs(t, dir, "renew", name); status != exitFailed || !strings.Contains(errs, want) {
			t.Errorf("renew %s: %d, %s", name, status, errs)
		}
	}
	if status, out, errs := certs(t, dir, "rotate-sa-key"); status != 0 || !strings.Contains(out, "next: begin") {
		t.Errorf("rotate-sa-key: %d, %s%s", status, out, errs)
	}
	if err := dir.AddTokenKey(); err != nil {
		t.Fatal(err)
	}
	if _, out, _ := certs(t, dir, "rotate-sa-key"); !strings.Contains(out, "next: issue") {
		t.Errorf("after begin: %s", out)
	}
}

func TestCAsThatAreReplacedAreShown(t *testing.T) {
	dir := statedir.Dir(t.TempDir())
	if status, _, errs := certs(t, dir, "rotate-ca"); status != exitFailed || !strings.Contains(errs, "no cluster in") {
		t.Errorf("without a cluster: %d, %s", status, errs)
	}
	if err := dir.Prepare(statedir.Spec{Now: time.Now(), ServerURL: "https://127.0.0.1:1", ServerNames: []string{"127.0.0.1"}, EtcdNames: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	if status, out, errs := certs(t, dir, "rotate-ca"); status != 0 || !strings.Contains(out, "next: km certs rotate-ca begin") {
		t.Errorf("before: %d, %s%s", status, out, errs)
	}
	if err := dir.WriteEtcd(statedir.Etcd{Endpoints: []string{"https://127.0.0.1:1"}, CAFile: dir.EtcdCA(), CertFile: dir.EtcdClientCert(), KeyFile: dir.EtcdClientKey(), Embedded: true}); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"there are ca, kubelet-serving-ca": {"rotate-ca", "sa"},
		"give 262800h0m0s or less":         {"rotate-ca", "begin", "--ca-lifetime=400000h"},
		"cannot find the API servers":      {"rotate-ca", "begin"},
	} {
		if status, _, errs := certs(t, dir, args...); status == 0 || !strings.Contains(errs, want) {
			t.Errorf("%q: %d, %s, want %s", args, status, errs, want)
		}
	}
	shown := func() string {
		t.Helper()
		_, out, _ := certs(t, dir, "-o", "name")
		return out
	}
	if err := dir.BeginRotation(time.Now(), statedir.Lives{}, "ca"); err != nil {
		t.Fatal(err)
	}
	if out := shown(); !strings.HasPrefix(out, "certificate/ca\ncertificate/ca-next\ncertificate/kubelet-serving-ca\n") {
		t.Errorf("after begin:\n%s", out)
	}
	if err := dir.IssueRotation(time.Now(), "ca"); err != nil {
		t.Fatal(err)
	}
	if out := shown(); !strings.HasPrefix(out, "certificate/ca\ncertificate/ca-old\n") {
		t.Errorf("after issue:\n%s", out)
	}
}

func TestEndedCertificateHasDaysBelowZero(t *testing.T) {
	dir := statedir.Dir(t.TempDir())
	made := time.Now().AddDate(-2, 0, 0)
	if err := dir.Prepare(statedir.Spec{Now: made, ServerURL: "https://127.0.0.1", ServerNames: []string{"127.0.0.1"}, EtcdNames: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	list, err := readCertificates(dir, made.Add(365*24*time.Hour+time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if (c.RenewedAt != nil) != (c.DaysLeft == -1) {
			t.Errorf("%s has %d days left", c.Name, c.DaysLeft)
		}
	}
}
