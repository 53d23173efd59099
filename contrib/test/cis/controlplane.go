package cis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/yaml"
)

// flagsOf returns a stock program's flags.
type flagsOf func(*seen) map[string]string

func apiServerFlags(s *seen) map[string]string         { return s.apiServer }
func controllerManagerFlags(s *seen) map[string]string { return s.controllerManager }

// apiServer are the items about kube-apiserver.
func apiServer() []item {
	of := flagsOf(apiServerFlags)
	return []item{
		{"1.2.1", "anonymous requests are refused", anonymous},
		{"1.2.2", "no token file", of.unset("token-auth-file")},
		{"1.2.3", "external IPs of services are denied", of.has("enable-admission-plugins", "DenyServiceExternalIPs")},
		{"1.2.4", "client certificate for kubelets", of.set("kubelet-client-certificate", "kubelet-client-key")},
		{"1.2.5", "CA of kubelets", of.set("kubelet-certificate-authority")},
		{"1.2.6", "authorization is not AlwaysAllow", of.lacks("authorization-mode", "AlwaysAllow")},
		{"1.2.7", "Node authorizer", of.has("authorization-mode", "Node")},
		{"1.2.8", "RBAC", of.has("authorization-mode", "RBAC")},
		{"1.2.9", "EventRateLimit", of.hasOr("enable-admission-plugins", "EventRateLimit",
			cannot("a limit for all clusters would drop events when many pods fail at once; set yours by --admission-control-config-file"))},
		{"1.2.10", "no AlwaysAdmit", of.lacks("enable-admission-plugins", "AlwaysAdmit")},
		{"1.2.11", "AlwaysPullImages", of.hasOr("enable-admission-plugins", "AlwaysPullImages",
			cannot("images that are only on the node could not run, and no pod without the registry; add it by --kube-apiserver-arg=enable-admission-plugins=AlwaysPullImages"))},
		{"1.2.12", "ServiceAccount is on", of.lacks("disable-admission-plugins", "ServiceAccount")},
		{"1.2.13", "NamespaceLifecycle is on", of.lacks("disable-admission-plugins", "NamespaceLifecycle")},
		{"1.2.14", "NodeRestriction is on", of.has("enable-admission-plugins", "NodeRestriction")},
		{"1.2.15", "no profiling", of.is("profiling", "false")},
		{"1.2.16", "audit log", of.set("audit-log-path")},
		{"1.2.17", "audit log is kept 30 days", of.atLeast("audit-log-maxage", 30)},
		{"1.2.18", "10 old audit logs are kept", of.atLeast("audit-log-maxbackup", 10)},
		{"1.2.19", "audit log is rotated at 100 MB", of.atLeast("audit-log-maxsize", 100)},
		{"1.2.20", "request timeout", requestTimeout},
		{"1.2.21", "service accounts are looked up", of.is("service-account-lookup", "true")},
		{"1.2.22", "key of service accounts", of.set("service-account-key-file")},
		{"1.2.23", "client certificate for etcd", of.set("etcd-certfile", "etcd-keyfile")},
		{"1.2.24", "serving certificate", of.set("tls-cert-file", "tls-private-key-file")},
		{"1.2.25", "CA of clients", of.set("client-ca-file")},
		{"1.2.26", "CA of etcd", of.set("etcd-cafile")},
		{"1.2.27", "encryption of secrets in etcd", of.set("encryption-provider-config")},
		{"1.2.28", "encryption by aescbc, kms or secretbox", encryption},
		{"1.2.29", "strong ciphers", of.ciphers("tls-cipher-suites")},
	}
}

// controllerManager are the items about kube-controller-manager.
func controllerManager() []item {
	of := flagsOf(controllerManagerFlags)
	return []item{
		{"1.3.1", "ended pods are removed", of.atLeast("terminated-pod-gc-threshold", 1)},
		{"1.3.2", "no profiling", of.is("profiling", "false")},
		{"1.3.3", "an account for each controller", of.is("use-service-account-credentials", "true")},
		{"1.3.4", "key of service accounts", of.set("service-account-private-key-file")},
		{"1.3.5", "root CA for pods", of.set("root-ca-file")},
		{"1.3.6", "kubelets' serving certificates are renewed", of.lacks("feature-gates", "RotateKubeletServerCertificate=false")},
		{"1.3.7", "listens on loopback", of.is("bind-address", "127.0.0.1")},
	}
}

// scheduler are the items about the scheduler.
func scheduler() []item {
	return []item{
		{"1.4.1", "no profiling", func(ctx context.Context, s *seen) verdict {
			client, err := s.stranger()
			if err != nil {
				return fail("%v", err)
			}
			_, err = get(ctx, client, "https://"+s.Status+"/debug/pprof/", "")
			var answer statusError
			if errors.As(err, &answer) && answer.status == http.StatusUnauthorized {
				return cannot("administrators, and nobody else, may read the profiles of a scheduler that is slow or grows")
			}
			return fail("/debug/pprof/ at %s, asked by nobody: %v", s.Status, err)
		}},
		{"1.4.2", "listens on loopback", func(_ context.Context, s *seen) verdict {
			host, _, err := net.SplitHostPort(s.Status)
			if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
				return fail("it listens on %s", s.Status)
			}
			return pass("%s", s.Status)
		}},
	}
}

// etcd are the items about etcd. The embedded one has no command line: its answers tell.
func etcd() []item {
	alone := notApplicable("the embedded etcd has one member and no listener for peers")
	return []item{
		{"2.1", "serves by TLS", func(_ context.Context, s *seen) verdict { return s.etcdServes() }},
		{"2.2", "requires client certificates", func(_ context.Context, s *seen) verdict { return s.etcdRefuses() }},
		{"2.3", "no certificate of its own making", func(_ context.Context, s *seen) verdict { return s.etcdServes() }},
		{"2.4", "certificate for peers", alone},
		{"2.5", "peers need certificates", alone},
		{"2.6", "no certificate of its own making for peers", alone},
		{"2.7", "a CA of its own", func(_ context.Context, s *seen) verdict {
			own, cluster := readCertificate(s.Dir.EtcdCA()), readCertificate(s.Dir.CA())
			if own == nil || cluster == nil || own.Equal(cluster) {
				return fail("etcd's CA is that of the cluster, or cannot be read")
			}
			return pass("%s", own.Subject.CommonName)
		}},
	}
}

func readCertificate(file string) *x509.Certificate {
	certificates, err := certutil.CertsFromFile(file)
	if err != nil {
		return nil
	}
	return certificates[0]
}

// dialEtcd connects to etcd without a client certificate, and reads a byte: a server that wants one tells only then.
func (s *seen) dialEtcd() (handshake, read error) {
	note, err := s.Dir.Etcd()
	if err != nil {
		return err, err
	}
	endpoint, err := url.Parse(note.Endpoints[0])
	if err != nil {
		return err, err
	}
	pool, err := certutil.NewPool(s.Dir.EtcdCA())
	if err != nil {
		return err, err
	}
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", endpoint.Host, &tls.Config{RootCAs: pool})
	if err != nil {
		return err, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte("GET /version HTTP/1.1\r\nHost: etcd\r\n\r\n")); err != nil {
		return nil, err
	}
	_, err = c.Read(make([]byte, 1))
	return nil, err
}

// etcdServes checks that etcd's certificate is of etcd's CA.
func (s *seen) etcdServes() verdict {
	if handshake, _ := s.dialEtcd(); handshake != nil {
		return fail("%v", handshake)
	}
	return pass("its certificate is signed by etcd's CA")
}

// etcdRefuses checks that etcd serves nobody without a certificate.
func (s *seen) etcdRefuses() verdict {
	handshake, read := s.dialEtcd()
	if handshake == nil && read != nil && strings.Contains(read.Error(), "certificate") {
		return pass("%v", read)
	}
	return fail("a client without a certificate: handshake %v, answer %v", handshake, read)
}

// auditing are the items about the ways of people and about the audit log.
func auditing() []item {
	people := notApplicable("a matter of the people you let in; --authentication-config sets OIDC up")
	return []item{
		{"3.1.1", "no client certificates for people", people},
		{"3.1.2", "no service account tokens for people", people},
		{"3.1.3", "no bootstrap tokens for people", people},
		{"3.2.1", "audit policy", flagsOf(apiServerFlags).set("audit-policy-file")},
		{"3.2.2", "audit policy covers secrets, workloads and exec", auditPolicy},
	}
}

// anonymous checks that requests without an identity get health and nothing else.
func anonymous(ctx context.Context, s *seen) verdict {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	for _, path := range []string{"/api", "/apis", "/version", "/metrics", "/openapi/v2", "/flagz"} {
		_, err := get(ctx, client, s.REST.Host+path, "")
		var answer statusError
		if !errors.As(err, &answer) || answer.status != http.StatusUnauthorized {
			return fail("%s without an identity: %v", path, err)
		}
	}
	return cannot("load balancers ask /livez, /readyz and /healthz without an identity; all else is answered by 401")
}

func requestTimeout(_ context.Context, s *seen) verdict {
	limit, err := time.ParseDuration(s.apiServer["request-timeout"])
	if err != nil || limit <= 0 || limit > 5*time.Minute {
		return fail("request-timeout=%s", s.apiServer["request-timeout"])
	}
	return pass("%s", limit)
}

// encryption reads which provider encrypts.
func encryption(_ context.Context, s *seen) verdict {
	var c apiserverv1.EncryptionConfiguration
	if err := readYAML(s.apiServer["encryption-provider-config"], &c); err != nil {
		return fail("%v", err)
	}
	for _, resource := range c.Resources {
		if !slices.Contains(resource.Resources, "secrets") || len(resource.Providers) == 0 {
			continue
		}
		switch first := resource.Providers[0]; {
		case first.Secretbox != nil:
			return pass("secretbox")
		case first.AESCBC != nil:
			return pass("aescbc")
		case first.KMS != nil:
			return pass("kms")
		}
	}
	return fail("the first provider for secrets is none of these")
}

// auditPolicy checks that bodies of secrets are not logged, that changes of workloads are, and who entered a pod.
func auditPolicy(_ context.Context, s *seen) verdict {
	var policy auditv1.Policy
	if err := readYAML(s.apiServer["audit-policy-file"], &policy); err != nil {
		return fail("%v", err)
	}
	for _, want := range []struct {
		group, resource, verb string
		most                  auditv1.Level
	}{
		{"", "secrets", "get", auditv1.LevelMetadata}, {"", "secrets", "update", auditv1.LevelMetadata},
		{"", "configmaps", "update", auditv1.LevelMetadata}, {"authentication.k8s.io", "tokenreviews", "create", auditv1.LevelMetadata},
		{"", "serviceaccounts/token", "create", auditv1.LevelMetadata},
		{"", "pods", "create", ""}, {"", "pods", "delete", ""}, {"apps", "deployments", "patch", ""},
		{"", "pods/exec", "create", ""}, {"", "pods/portforward", "create", ""}, {"", "pods/proxy", "get", ""}, {"", "services/proxy", "get", ""},
	} {
		level := levelOf(policy, want.group, want.resource, want.verb)
		if level == auditv1.LevelNone || want.most != "" && level != want.most {
			return fail("%s of %s is logged at level %s", want.verb, want.resource, level)
		}
	}
	return pass("%d rules; bodies of secrets are never logged", len(policy.Rules))
}

// levelOf returns the level at which a person's request is logged: that of the first rule for it
// (https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/#audit-policy).
func levelOf(policy auditv1.Policy, group, resource, verb string) auditv1.Level {
	for _, rule := range policy.Rules {
		of := len(rule.Resources) == 0 && len(rule.NonResourceURLs) == 0
		for _, r := range rule.Resources {
			of = of || r.Group == group && (len(r.Resources) == 0 || slices.Contains(r.Resources, resource) || slices.Contains(r.Resources, "*"))
		}
		if of && len(rule.Users)+len(rule.UserGroups)+len(rule.Namespaces) == 0 && (len(rule.Verbs) == 0 || slices.Contains(rule.Verbs, verb)) {
			return rule.Level
		}
	}
	return auditv1.LevelNone
}

func readYAML(file string, into any) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal(data, into); err != nil {
		return fmt.Errorf("cannot read %s: %w", file, err)
	}
	return nil
}

// set checks that flags are set.
func (of flagsOf) set(names ...string) func(context.Context, *seen) verdict {
	return func(_ context.Context, s *seen) verdict {
		for _, name := range names {
			if of(s)[name] == "" || of(s)[name] == "[]" {
				return fail("%s is not set", name)
			}
		}
		return pass("%s=%s", names[0], of(s)[names[0]])
	}
}

func (of flagsOf) unset(name string) func(context.Context, *seen) verdict {
	return func(_ context.Context, s *seen) verdict {
		if value := of(s)[name]; value != "" {
			return fail("%s=%s", name, value)
		}
		return pass("not set")
	}
}

func (of flagsOf) is(name, want string) func(context.Context, *seen) verdict {
	return func(_ context.Context, s *seen) verdict {
		if value := of(s)[name]; value != want {
			return fail("%s=%s", name, value)
		}
		return pass("%s=%s", name, want)
	}
}

// elements splits a list as flags print it: "[a,b]" or "a,b".
func elements(value string) []string {
	return strings.FieldsFunc(strings.Trim(value, "[]"), func(r rune) bool { return r == ',' || r == ' ' })
}

func (of flagsOf) has(name, want string) func(context.Context, *seen) verdict {
	return func(ctx context.Context, s *seen) verdict {
		return of.hasOr(name, want, fail("%s=%s", name, of(s)[name]))(ctx, s)
	}
}

// hasOr ends with the other verdict if the list lacks the element.
func (of flagsOf) hasOr(name, want string, other verdict) func(context.Context, *seen) verdict {
	return func(_ context.Context, s *seen) verdict {
		if !slices.Contains(elements(of(s)[name]), want) {
			return other
		}
		return pass("%s=%s", name, of(s)[name])
	}
}

func (of flagsOf) lacks(name, bad string) func(context.Context, *seen) verdict {
	return func(_ context.Context, s *seen) verdict {
		if slices.Contains(elements(of(s)[name]), bad) {
			return fail("%s=%s", name, of(s)[name])
		}
		return pass("%s=%s", name, of(s)[name])
	}
}

func (of flagsOf) atLeast(name string, least int) func(context.Context, *seen) verdict {
	return func(_ context.Context, s *seen) verdict {
		if value, err := strconv.Atoi(of(s)[name]); err != nil || value < least {
			return fail("%s=%s", name, of(s)[name])
		}
		return pass("%s=%s", name, of(s)[name])
	}
}

func (of flagsOf) ciphers(name string) func(context.Context, *seen) verdict {
	return func(_ context.Context, s *seen) verdict { return strong(elements(of(s)[name])) }
}

// strong checks that all suites have forward secrecy and authenticate what they encrypt.
func strong(suites []string) verdict {
	if len(suites) == 0 {
		return fail("no list of cipher suites is set")
	}
	for _, suite := range suites {
		modern := strings.HasPrefix(suite, "TLS_AES_") || strings.HasPrefix(suite, "TLS_CHACHA20_") ||
			strings.HasPrefix(suite, "TLS_ECDHE_") && (strings.Contains(suite, "_GCM_") || strings.Contains(suite, "_CHACHA20_"))
		if !modern {
			return fail("%s is weak", suite)
		}
	}
	return pass("%s", strings.Join(suites, ","))
}
