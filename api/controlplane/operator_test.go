package controlplane

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/nodeslices"
	"github.com/k8sm/k8sm/api/secretkeys"
	"github.com/k8sm/k8sm/api/statedir"
)

const plaintext = "correct-horse-battery-staple"

// testWeakCiphers offers suites that neither the API server nor etcd accepts, then one that they do.
func testWeakCiphers(t *testing.T, dir statedir.Dir) {
	etcd, err := dir.Etcd()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(etcd.CertFile, etcd.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	dial := func(address string, suite uint16) error {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(address, "https://"), &tls.Config{
			InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite},
		})
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	for _, address := range []string{adminConfig(t, dir).Host, etcd.Endpoints[0]} {
		if err := dial(address, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256); err != nil {
			t.Errorf("%s refuses a good cipher suite: %v", address, err)
		}
		for _, weak := range []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA} {
			if err := dial(address, weak); err == nil {
				t.Errorf("%s accepts %s", address, tls.CipherSuiteName(weak))
			}
		}
	}
}

// testAuditLog writes a secret, and reads about it in the log.
func testAuditLog(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "audited"}, StringData: map[string]string{"password": plaintext}}
	if _, err := admin.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(string(dir), "log", "audit.log")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the audit log has mode %v", info.Mode())
	}
	var told bool
	for _, e := range auditEvents(t, file) {
		ref := e.ObjectRef
		if ref == nil {
			ref = &auditv1.ObjectReference{}
		}
		told = told || e.Verb == "create" && ref.Resource == "secrets" && ref.Name == "audited" && slices.Contains(e.User.Groups, "system:masters")
		if e.Level != auditv1.LevelMetadata || e.Stage == auditv1.StageRequestReceived || e.RequestObject != nil || e.ResponseObject != nil {
			t.Errorf("logged %s %s %s at level %s, stage %s", e.User.Username, e.Verb, e.RequestURI, e.Level, e.Stage)
		}
		if ref.Resource == "events" || ref.Resource == "leases" && e.User.Username != "kubernetes-admin" || ref.Namespace == nodeslices.Namespace && e.User.Username == api.SchedulerUser || strings.HasPrefix(e.RequestURI, "/readyz") {
			t.Errorf("logged %s %s %s", e.User.Username, e.Verb, e.RequestURI)
		}
	}
	if !told {
		t.Error("the audit log does not tell who made a secret")
	}
}

// auditEvents reads the log. It fails the test if there is a secret in it.
func auditEvents(t *testing.T, file string) (events []auditv1.Event) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte(plaintext)) || bytes.Contains(data, []byte(base64.StdEncoding.EncodeToString([]byte(plaintext)))) {
		t.Error("a secret is in the audit log")
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditv1.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

// stored returns the secrets as etcd has them.
func stored(t *testing.T, dir statedir.Dir) map[string]string {
	t.Helper()
	page, err := etcdOf(t, dir).Get(t.Context(), secretsPrefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for _, kv := range page.Kvs {
		values[strings.TrimPrefix(string(kv.Key), secretsPrefix)] = string(kv.Value)
	}
	return values
}

// etcdOf returns a client with the API server's rights. The test closes it.
func etcdOf(t *testing.T, dir statedir.Dir) *clientv3.Client {
	t.Helper()
	r, err := newRewriter(dir, apiserverv1.Key{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r.etcd
}

// testEncryption reads secrets in etcd, before and after the key is rotated. It leaves one there that is not encrypted.
func testEncryption(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	for _, file := range []string{dir.EncryptionConfig(), dir.AuditPolicy()} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "new"}, StringData: map[string]string{"password": plaintext}}
	if _, err := admin.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	checkEncrypted(t, dir, soleKey(t, dir))
	resumeRotation(t, dir)
	first := soleKey(t, dir)
	if err := RotateKey(t.Context(), dir, patient); err != nil {
		t.Fatal(err)
	}
	second := soleKey(t, dir)
	if second == first {
		t.Fatal("the key is the same")
	}
	checkEncrypted(t, dir, second)
	checkReadable(t, admin, "new")
	plantOldSecret(t, dir)
	checkReadable(t, admin, "old")
}

// patient waits for control planes.
var patient = KeyRotation{Patience: time.Minute}

// resumeRotation leaves two keys, as a rotation of an earlier km that was killed does, of which the API server uses the first.
func resumeRotation(t *testing.T, dir statedir.Dir) {
	t.Helper()
	next, err := secretkeys.New()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := secretkeys.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := secretkeys.Write(dir, append([]secretkeys.Key{next}, keys...)); err != nil {
		t.Fatal(err)
	}
	if err := RotateKey(t.Context(), dir, patient); err != nil {
		t.Fatal(err)
	}
	if got := soleKey(t, dir); got != next.Name {
		t.Errorf("the key is %s, want that of the rotation that was killed, %s", got, next.Name)
	}
	checkEncrypted(t, dir, next.Name)
}

// plantOldSecret writes a secret to etcd as if the cluster had been made before there was a key.
func plantOldSecret(t *testing.T, dir statedir.Dir) {
	t.Helper()
	old := &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: "old", Namespace: "default", UID: "u-1", CreationTimestamp: metav1.Now()},
		Type:       corev1.SecretTypeOpaque, Data: map[string][]byte{"password": []byte(plaintext)},
	}
	data, err := json.Marshal(old)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := etcdOf(t, dir).Put(t.Context(), secretsPrefix+"default/old", string(data)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(stored(t, dir)["default/old"], base64.StdEncoding.EncodeToString([]byte(plaintext))) {
		t.Error("the test's old secret is not readable in etcd")
	}
	if err := dir.WriteEncryptionUnfinished(); err != nil {
		t.Fatal(err)
	}
}

// testOldSecrets waits, after a restart, until the secret from before is encrypted.
func testOldSecrets(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	eventually(t, func(context.Context) string {
		if _, err := os.Stat(dir.EncryptionUnfinished()); err == nil {
			return "old secrets are not yet encrypted"
		}
		return ""
	})
	checkEncrypted(t, dir, soleKey(t, dir))
	checkReadable(t, admin, "old")
	checkReadable(t, admin, "new")
}

func soleKey(t *testing.T, dir statedir.Dir) string {
	t.Helper()
	keys, err := secretkeys.Read(dir)
	if err != nil || len(keys) != 1 {
		t.Fatalf("got %d keys, %v", len(keys), err)
	}
	return keys[0].Name
}

func checkEncrypted(t *testing.T, dir statedir.Dir, key string) {
	t.Helper()
	values := stored(t, dir)
	if len(values) == 0 {
		t.Error("etcd has no secrets")
	}
	for name, value := range values {
		if !strings.HasPrefix(value, "k8s:enc:secretbox:v1:"+key+":") || strings.Contains(value, base64.StdEncoding.EncodeToString([]byte(plaintext))) {
			t.Errorf("secret %s is stored as %.60s…, want it encrypted with %s", name, value, key)
		}
	}
}

func checkReadable(t *testing.T, admin kubernetes.Interface, name string) {
	t.Helper()
	secret, err := admin.CoreV1().Secrets("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil || string(secret.Data["password"]) != plaintext {
		t.Errorf("secret %s is %q, %v", name, secret.Data["password"], err)
	}
}

func TestKeyOfAnotherIsNotRotated(t *testing.T) {
	err := RotateKey(t.Context(), statedir.Dir(t.TempDir()), patient)
	if err == nil || !strings.Contains(err.Error(), "km made none in") {
		t.Errorf("got %v", err)
	}
}

// TestNoKeyIsMadeForASharedEtcd: another control plane could not read what it encrypts.
func TestNoKeyIsMadeForASharedEtcd(t *testing.T) {
	dir := statedir.Dir(t.TempDir())
	c := defaults(dir)
	c.EtcdServers = []string{"http://e:1"}
	if err := c.prepareEncryption(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir.EncryptionConfig()); !os.IsNotExist(err) {
		t.Errorf("there is a key: %v", err)
	}
	if got := c.apiServerFlags(statedir.Etcd{})["encryption-provider-config"]; got != "" {
		t.Errorf("kube-apiserver is given %s", got)
	}
}

// TestKeyIsMadeOnce: with the note that there may be secrets from before.
func TestKeyIsMadeOnce(t *testing.T) {
	dir := statedir.Dir(t.TempDir())
	c := defaults(dir)
	var keys []string
	for range 2 {
		if err := c.prepareEncryption(); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, soleKey(t, dir))
	}
	if keys[0] != keys[1] {
		t.Errorf("the keys are %v", keys)
	}
	if _, err := os.Stat(dir.EncryptionUnfinished()); err != nil {
		t.Error(err)
	}
	c.EncryptionConfig = dir.EncryptionConfig()
	if err := c.checkEncryption(); err != nil {
		t.Errorf("kube-apiserver cannot use the file: %v", err)
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestFilesThatCannotBeUsedAreRefused(t *testing.T) {
	const admission = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n"
	const authentication = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"
	for _, test := range []struct{ flag, text, want string }{
		{"admission-control-config-file", "plugins: {", "cannot use --admission-control-config-file"},
		{"admission-control-config-file", "kind: Pod\napiVersion: v1\n", "cannot use --admission-control-config-file"},
		{"admission-control-config-file", admission + "- name: NoSuch\n", "unknown admission plugin: NoSuch"},
		{"admission-control-config-file", admission + "- {name: PodSecurity, configuration: {apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration, defaults: {enforces: baseline}}}\n",
			"enforces"},
		{"admission-control-config-file", admission + "- {name: EventRateLimit, configuration: {apiVersion: eventratelimit.admission.k8s.io/v1alpha1, kind: Configuration, limits: [{type: Nobody}]}}\n",
			"Nobody"},
		{"authentication-config", "jwt: {", "cannot use --authentication-config"},
		{"authentication-config", authentication + "anonymous: {enabled: true}\n", "remove anonymous: km lets unauthenticated callers get the server's health only"},
		{"authentication-config", authentication + "jwt: [{issuer: {url: http://plain, audiences: [a]}, claimMappings: {username: {claim: sub, prefix: ''}}}]\n", "URL scheme must be https"},
		{"authentication-config", authentication + "jwts: []\n", "unknown field"},
		{"audit-policy-file", "rules: {", "cannot use --audit-policy-file"},
		{"audit-policy-file", "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Everything}]\n", "Everything"},
		{"encryption-provider-config", "resources: {", "cannot use --encryption-provider-config"},
		{"encryption-provider-config", "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{resources: [secrets], providers: [{aescbc: {keys: [{name: a, secret: c2hvcnQ=}]}}]}]\n",
			"secret is not of the expected length"},
	} {
		c := withArgs(t, "--"+test.flag+"="+write(t, "file.yaml", test.text))
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("--%s: got %v, want %s", test.flag, err, test.want)
		}
		c = withArgs(t, "--"+test.flag+"=/missing")
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "--"+test.flag) || !strings.Contains(err.Error(), "/missing") {
			t.Errorf("--%s=/missing: got %v", test.flag, err)
		}
	}
	for line, want := range map[string]string{
		"--oidc-client-id=x":             "without --oidc-issuer-url",
		"--oidc-issuer-url=https://i":    "cannot use --oidc-issuer-url without --oidc-client-id",
		"--tls-min-version=VersionTLS11": "use VersionTLS12 or VersionTLS13",
		"--tls-cipher-suites=TLS_NULL":   "cannot use --tls-cipher-suites",
		"--pod-max-pids=0":               "cannot use --pod-max-pids=0",
	} {
		c := withArgs(t, strings.Fields(line)...)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", line, err, want)
		}
	}
}

func TestOIDCFlagsAreOneIssuer(t *testing.T) {
	c := withArgs(t, "--oidc-issuer-url=https://i.example", "--oidc-client-id=k8s", "--oidc-groups-claim=groups", "--oidc-groups-prefix=oidc:", "--oidc-required-claim=hd=example.org")
	data, err := c.authentication()
	if err != nil {
		t.Fatal(err)
	}
	var got apiserverv1.AuthenticationConfiguration
	if err := json.Unmarshal(data, &got); err != nil || len(got.JWT) != 1 {
		t.Fatalf("%s: %v", data, err)
	}
	j := got.JWT[0]
	if *j.ClaimMappings.Username.Prefix != "https://i.example#" || j.ClaimMappings.Username.Claim != "sub" || *j.ClaimMappings.Groups.Prefix != "oidc:" ||
		j.Issuer.Audiences[0] != "k8s" || j.ClaimValidationRules[0].RequiredValue != "example.org" {
		t.Errorf("got %s", data)
	}
	c = withArgs(t, "--oidc-issuer-url=https://i.example", "--oidc-client-id=k8s", "--oidc-username-claim=email", "--oidc-username-prefix=-")
	if data, err = c.authentication(); err != nil || !strings.Contains(string(data), `"username":{"claim":"email","prefix":""}`) {
		t.Errorf("got %s, %v", data, err)
	}
}

// issuer is an OpenID Connect issuer with one key.
type issuer struct {
	*httptest.Server
	key *rsa.PrivateKey
}

func startIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key}
	mux := http.NewServeMux()
	answer := func(path string, value func() any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(value()) })
	}
	answer("/.well-known/openid-configuration", func() any {
		return map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256"}}
	})
	answer("/keys", func() any {
		part := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }
		return map[string]any{"keys": []any{map[string]string{
			"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "one", "n": part(key.N), "e": part(big.NewInt(int64(key.E))),
		}}}
	})
	i.Server = httptest.NewTLSServer(mux)
	t.Cleanup(i.Close)
	return i
}

// token returns a token for somebody, signed with the key.
func (i *issuer) token(t *testing.T, audience string) string {
	t.Helper()
	part := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	text := part(map[string]string{"alg": "RS256", "kid": "one"}) + "." + part(map[string]any{
		"iss": i.URL, "aud": audience, "sub": "jane", "groups": []string{"ops"}, "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(),
	})
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func (i *issuer) configuration(audience string) string {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw})
	text, _ := json.Marshal(string(ca))
	return fmt.Sprintf(`{"apiVersion": "apiserver.config.k8s.io/v1beta1", "kind": "AuthenticationConfiguration", "jwt": [{
		"issuer": {"url": %q, "audiences": [%q], "certificateAuthority": %s},
		"claimMappings": {"username": {"claim": "sub", "prefix": "oidc:"}, "groups": {"claim": "groups", "prefix": "oidc:"}}}]}`, i.URL, audience, text)
}

// testOIDC comes with tokens of the issuer, for one audience and another, and then changes the audience.
func testOIDC(t *testing.T, dir statedir.Dir, i *issuer, file string) {
	who := func(ctx context.Context, audience string) (*authenticationv1.SelfSubjectReview, error) {
		config := rest.AnonymousClientConfig(adminConfig(t, dir))
		config.BearerToken = i.token(t, audience)
		return clientOf(t, config).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	}
	eventually(t, func(ctx context.Context) string { // the issuer's keys are fetched in the background
		review, err := who(ctx, "k8sm")
		if err != nil {
			return err.Error()
		}
		if user := review.Status.UserInfo; user.Username != "oidc:jane" || !slices.Contains(user.Groups, "oidc:ops") {
			return fmt.Sprintf("the token is that of %s, %v", user.Username, user.Groups)
		}
		return ""
	})
	if _, err := who(t.Context(), "another"); !apierrors.IsUnauthorized(err) {
		t.Errorf("a token for another audience: got %v", err)
	}
	testStranger(t, dir)
	if err := os.WriteFile(file, []byte(i.configuration("another")), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) string {
		_, err := who(ctx, "another")
		return problemOf(err)
	})
}

const operatorsAdmission = `
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, enforce-version: latest}
- name: EventRateLimit
  configuration:
    apiVersion: eventratelimit.admission.k8s.io/v1alpha1
    kind: Configuration
    limits:
    - {type: Namespace, qps: 1, burst: 2, cacheSize: 100}
`

// testAdmissionConfig tries what the configuration forbids.
func testAdmissionConfig(t *testing.T, admin kubernetes.Interface) {
	pod := annotated("privileged", nil)
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: new(bool)}
	*pod.Spec.Containers[0].SecurityContext.Privileged = true
	eventually(t, func(ctx context.Context) string { // the service account comes first
		_, err := admin.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
		if err == nil {
			t.Fatal("a privileged pod was made")
		}
		if !strings.Contains(err.Error(), `violates PodSecurity "baseline:latest"`) {
			return err.Error()
		}
		return ""
	})
	var limited error
	for i := range 10 {
		event := &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("e%d", i), Namespace: "default"},
			InvolvedObject: corev1.ObjectReference{Kind: "Namespace", Namespace: "default", Name: "default"},
		}
		if _, err := admin.CoreV1().Events("default").Create(t.Context(), event, metav1.CreateOptions{}); err != nil {
			limited = err
		}
	}
	if !apierrors.IsTooManyRequests(limited) {
		t.Errorf("ten events at once: got %v", limited)
	}
}

// testFlagz reads whether the API server runs with --profiling. What stands between a flag and its value is chosen at random.
func testFlagz(t *testing.T, admin kubernetes.Interface, profiling string) {
	flags, err := admin.Discovery().RESTClient().Get().AbsPath("/flagz").SetHeader("Accept", "text/plain").Do(t.Context()).Raw()
	if err != nil || !regexp.MustCompile(`(?m)^profiling\W+`+profiling+`$`).Match(flags) {
		t.Errorf("want profiling %s in %s, %v", profiling, flags, err)
	}
}
