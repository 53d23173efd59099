package controlplane

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/join"
	"github.com/k8sm/k8sm/api/state/etcdtest"
	"github.com/k8sm/k8sm/api/statedir"
)

// fetchAtOnce uses a token on several machines at the same time, and returns the one that has joined.
func fetchAtOnce(t *testing.T, server string, token join.Token) (joined statedir.Dir) {
	t.Helper()
	type result struct {
		dir statedir.Dir
		err error
	}
	const machines = 5
	results := make(chan result, machines)
	for range machines {
		dir := statedir.Dir(t.TempDir())
		go func() { results <- result{dir, join.Fetch(t.Context(), server, token, dir)} }()
	}
	for range machines {
		r := <-results
		switch {
		case r.err != nil && r.dir.HasAuthorities():
			t.Errorf("a machine that was refused has the authorities: %v", r.err)
		case r.err != nil && !strings.Contains(r.err.Error(), "has ended or was used before"):
			t.Errorf("a machine was refused because %v", r.err)
		case r.err == nil && joined != "":
			t.Error("two machines joined with one token")
		case r.err == nil:
			joined = r.dir
		}
	}
	if joined == "" {
		t.Fatal("no machine joined")
	}
	return joined
}

// testJoin lets a machine join a running control plane, and attacks that.
func testJoin(t *testing.T, dir statedir.Dir) {
	server, ctx := adminConfig(t, dir), t.Context()
	admin := clientOf(t, server)
	token, err := join.Issue(ctx, admin, dir, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, token join.Token, says string) {
		t.Helper()
		next := statedir.Dir(t.TempDir())
		if err := join.Fetch(ctx, server.Host, token, next); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want %q", what, err, says)
		}
		if next.HasAuthorities() {
			t.Errorf("%s: the machine has the authorities", what)
		}
	}
	secrets := admin.CoreV1().Secrets(metav1.NamespaceSystem)
	sealed, err := secrets.Get(ctx, "k8sm-join-"+token.ID, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, guess := range []string{token.Secret, token.ID, token.ID + "." + token.Secret} { // what a reader of Secrets in kube-system knows
		if err := join.Open(statedir.Dir(t.TempDir()), sealed.Data["authorities"], guess); !errors.Is(err, join.ErrPassphrase) {
			t.Errorf("a reader of Secrets opens the authorities: %v", err)
		}
	}
	config := rest.AnonymousClientConfig(server)
	config.BearerToken = token.ID + "." + token.Secret
	holder := clientOf(t, config)
	eventually(t, func(ctx context.Context) string { // the token authenticator has to see the Secret first
		_, err := holder.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, sealed.Name, metav1.GetOptions{})
		return problemOf(err)
	})
	if _, err := holder.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the token lists Secrets: %v", err)
	}
	if _, err := holder.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, "bootstrap-token-"+token.ID, metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the token reads another Secret: %v", err)
	}
	other := statedir.Dir(t.TempDir())
	if err := other.Prepare(statedir.Spec{Now: time.Now(), ServerURL: server.Host}); err != nil {
		t.Fatal(err)
	}
	pinned := token
	if pinned.CA, err = os.ReadFile(other.CA()); err != nil {
		t.Fatal(err)
	}
	refused("a server that the token's CA did not sign", pinned, "certificate signed by unknown authority")
	guessed := token
	guessed.Passphrase = strings.Repeat("a", len(token.Passphrase))
	refused("another passphrase", guessed, "the passphrase is wrong")

	next := fetchAtOnce(t, server.Host, token)
	if err := next.Prepare(statedir.Spec{Now: time.Now(), ServerURL: server.Host}); err != nil {
		t.Fatal(err)
	}
	if got, err := clientOf(t, adminConfig(t, next)).Discovery().ServerVersion(); err != nil { // its own certificates are good
		t.Errorf("got %v, %v", got, err)
	}
	eventually(t, func(ctx context.Context) string { // the authenticator has to see that it is gone
		_, err := holder.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, sealed.Name, metav1.GetOptions{})
		if !apierrors.IsUnauthorized(err) {
			return "the token that was used still counts: " + problemOf(err)
		}
		return ""
	})
	refused("a token that was used", token, "has ended or was used before")
	for _, name := range []string{sealed.Name, "bootstrap-token-" + token.ID} {
		if _, err := secrets.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("Secret %s is left: %v", name, err)
		}
	}
	eventually(t, func(ctx context.Context) string { // Kubernetes collects what the token owned
		if _, err := admin.RbacV1().Roles(metav1.NamespaceSystem).Get(ctx, sealed.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return "the role is left"
		}
		return ""
	})
	late, err := join.Issue(ctx, admin, dir, -time.Second)
	if err != nil {
		t.Fatal(err)
	}
	refused("a token whose time is over", late, "has ended or was used before")
}

// settled returns a configuration with flags, and the etcd where it is compared.
func settled(t *testing.T, endpoint string, args ...string) (Config, statedir.Etcd) {
	t.Helper()
	c, flags := withFlags(statedir.Dir(t.TempDir()))
	if err := flags.Parse(append([]string{"--etcd-servers=" + endpoint, "--bind-address=192.0.2.7"}, args...)); err != nil {
		t.Fatal(err)
	}
	c.ClusterName = "k8sm"
	return *c, statedir.Etcd{Endpoints: []string{endpoint}}
}

func TestControlPlaneWithOtherSettingsIsRefusedBesideOthers(t *testing.T) {
	endpoint := "http://" + etcdtest.Start(t)
	agree := func(args ...string) error {
		t.Helper()
		c, access := settled(t, endpoint, args...)
		leave, err := c.agree(t.Context(), access)
		if err == nil {
			t.Cleanup(leave)
		}
		return err
	}
	client, err := etcd.Dial(statedir.Etcd{Endpoints: []string{endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	runs := func(address string) {
		t.Helper()
		if _, err := client.Put(t.Context(), masterLeases+address, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := agree(); err != nil {
		t.Fatalf("the first: %v", err)
	}
	runs("192.0.2.7") // itself, before a restart
	if err := agree("--cluster-domain=alone.example"); err != nil {
		t.Errorf("alone, with another flag: %v", err)
	}
	runs("192.0.2.8")
	if err := agree("--cluster-domain=alone.example", "--bind-address=192.0.2.9", "--secure-port=7443", "--tls-san=a.example", "--audit-log-maxage=3"); err != nil {
		t.Errorf("only the machine differs: %v", err)
	}
	err = agree("--cluster-domain=other.example", "--service-cluster-ip-range=10.97.0.0/16")
	for _, part := range []string{"beside the control planes at 192.0.2.8", `--cluster-domain is "other.example" here and "alone.example" there`,
		`--service-cluster-ip-range is "10.97.0.0/16" here and "10.96.0.0/16" there`, "--change-settings"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want %q", err, part)
		}
	}
	if err := agree("--cluster-domain=alone.example"); err != nil {
		t.Errorf("one that was refused has changed something: %v", err)
	}
	if err := agree("--cluster-domain=new.example", "--change-settings"); err != nil {
		t.Errorf("a change that was asked for: %v", err)
	}
	if err := agree("--cluster-domain=alone.example"); err == nil || !strings.Contains(err.Error(), `"new.example" there`) {
		t.Errorf("another with the old flags: %v", err)
	}
}

// TestOneOfControlPlanesThatStartTogetherDecidesTheSettings starts some that have different settings, before any API server runs.
func TestOneOfControlPlanesThatStartTogetherDecidesTheSettings(t *testing.T) {
	endpoint := "http://" + etcdtest.Start(t)
	addresses := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"}
	starts := func(address, domain string) (leave func(), err error) {
		c, access := settled(t, endpoint, "--bind-address="+address, "--cluster-domain="+domain)
		return c.agree(t.Context(), access)
	}
	for range 5 {
		type result struct {
			address string
			leave   func()
			err     error
		}
		results := make(chan result, len(addresses))
		for _, address := range addresses {
			go func() {
				leave, err := starts(address, "of-"+address+".example")
				results <- result{address, leave, err}
			}()
		}
		var won result
		var refused []result
		for range addresses {
			switch r := <-results; {
			case r.err != nil:
				refused = append(refused, r)
			case won.leave != nil:
				t.Errorf("%s and %s start with different settings", won.address, r.address)
				r.leave()
			default:
				won = r
			}
		}
		if won.leave == nil {
			t.Fatal("none starts")
		}
		for _, r := range refused {
			for _, part := range []string{"beside the control planes at " + won.address, `here and "of-` + won.address + `.example" there`} {
				if !strings.Contains(r.err.Error(), part) {
					t.Errorf("got %v, want %q", r.err, part)
				}
			}
			leave, err := starts(r.address, "of-"+won.address+".example")
			if err != nil {
				t.Errorf("with the same settings: %v", err)
				continue
			}
			leave()
		}
		leave, err := starts(won.address, "new.example")
		if err != nil {
			t.Fatalf("alone, with another flag: %v", err)
		}
		leave()
		won.leave()
	}
}

func TestSettingsOfFilesAreTheirContent(t *testing.T) {
	endpoint := "http://" + etcdtest.Start(t)
	a, b := write(t, "a", "same"), write(t, "b", "same")
	one, _ := settled(t, endpoint, "--audit-policy-file="+a)
	two, _ := settled(t, endpoint, "--audit-policy-file="+b)
	mine, err := one.settings()
	if err != nil {
		t.Fatal(err)
	}
	same, err := two.settings()
	if differ := same.differences(mine); len(differ) > 0 || err != nil {
		t.Errorf("the same content elsewhere: %q, %v", differ, err)
	}
	if err := os.WriteFile(b, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	changed, err := two.settings()
	if differ := changed.differences(mine); len(differ) != 1 || err != nil {
		t.Errorf("another content: %q, %v", differ, err)
	}
}

func TestControlPlanesOfTwoVersionsAgree(t *testing.T) {
	c, _ := settled(t, "http://127.0.0.1:1", "--cluster-cidr=10.9.0.0/16")
	mine, err := c.settings()
	if err != nil {
		t.Fatal(err)
	}
	older := settings{Version: "v0", Flags: map[string]string{"cluster-cidr": "10.9.0.0/16", "eviction-hard": "an older default", "gone": "x"}}
	if differ := mine.differences(older); len(differ) > 0 {
		t.Errorf("an older version's defaults: %q", differ)
	}
	older.Flags["cluster-cidr"] = "10.8.0.0/16"
	if differ := mine.differences(older); len(differ) != 1 {
		t.Errorf("a flag that was given: %q", differ)
	}
}

func TestEndpointIsForPeoplesKubeconfigsAndInTheCertificate(t *testing.T) {
	for endpoint, want := range map[string]string{
		"": "", "api.example": "https://api.example:6443", "api.example:443": "https://api.example:443", "10.0.0.9": "https://10.0.0.9:6443",
		"[2001:db8::1]:7443": "https://[2001:db8::1]:7443", "2001:db8::1": "https://[2001:db8::1]:6443",
	} {
		m := Masters{Endpoint: endpoint}
		if err := m.check(); err != nil {
			t.Errorf("%s: %v", endpoint, err)
		}
		if got := m.publicURL(6443); got != want {
			t.Errorf("%s: got %s, want %s", endpoint, got, want)
		}
	}
	for _, wrong := range []Masters{{Endpoint: "Api_example"}, {Endpoint: "api.example:x"}, {Names: []string{"a b"}}, {Join: "https://x"}, {TokenFile: "/t"}} {
		if wrong.check() == nil {
			t.Errorf("%+v is accepted", wrong)
		}
	}
}

func TestAPIServerUsesTheEtcdMemberBesideIt(t *testing.T) {
	machine := []net.Addr{&net.IPNet{IP: net.ParseIP("127.0.0.1"), Mask: net.CIDRMask(8, 32)}, &net.IPNet{IP: net.ParseIP("192.0.2.7"), Mask: net.CIDRMask(24, 32)}}
	all := []string{"https://192.0.2.6:2379", "https://192.0.2.7:2379", "https://192.0.2.8:2379"}
	if diff := cmp.Diff(all[1:2], ownMember(all, machine)); diff != "" {
		t.Error(diff)
	}
	elsewhere := []string{all[0], all[2], "https://etcd.example:2379"}
	if diff := cmp.Diff(elsewhere, ownMember(elsewhere, machine)); diff != "" {
		t.Errorf("without a member here: %s", diff)
	}
	c, _ := withFlags(statedir.Dir(t.TempDir()))
	if err := c.StateDir.WriteEtcd(statedir.Etcd{Endpoints: []string{all[0], "https://127.0.0.1:2379"}, Managed: true}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"https://127.0.0.1:2379"}, c.existingEtcd().Endpoints); diff != "" {
		t.Errorf("at the start too, while another hangs: %s", diff)
	}
}
