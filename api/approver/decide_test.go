package approver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
)

// signed returns the PEM of a request after the template.
func signed(t *testing.T, template x509.CertificateRequest) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func subject(node string) pkix.Name {
	return pkix.Name{CommonName: api.NodeUserPrefix + node, Organization: []string{api.NodesGroup}}
}

// clientRequest is what a kubelet asks for with a bootstrap token for node n1.
func clientRequest(t *testing.T, change func(*x509.CertificateRequest)) Facts {
	template := x509.CertificateRequest{Subject: subject("n1")}
	if change != nil {
		change(&template)
	}
	return Facts{Token: tokenFor("n1"), Request: &certificatesv1.CertificateSigningRequest{
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    signed(t, template),
			SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Username:   bootstrapUserPrefix + "abcdef",
			Usages:     slices.Clone(clientUsages),
		},
	}}
}

func tokenFor(node string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceSystem, Name: "bootstrap-token-abcdef", UID: "s", Labels: map[string]string{api.LabelNode: node},
		},
		Type: corev1.SecretTypeBootstrapToken, Data: map[string][]byte{},
	}
}

// usedBy has the token bound to the key of a request.
func usedBy(request, key Facts) Facts {
	return but(request, func(f *Facts) {
		parsed, _ := parse(key.Request.Spec.Request)
		f.Token.Annotations = map[string]string{api.AnnotationTokenKey: keyOf(parsed)}
	})
}

// serving is what the kubelet of node n1 asks for with its own certificate.
func serving(t *testing.T, change func(*x509.CertificateRequest)) Facts {
	template := x509.CertificateRequest{
		Subject: subject("n1"), DNSNames: []string{"n1"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
	}
	if change != nil {
		change(&template)
	}
	return Facts{
		Nodes: []*corev1.Node{
			nodeAt("n2", "10.0.0.2:5051", "10.0.0.2", "fd00::2"),
			nodeAt("n3", "10.0.0.4:5051", "10.0.0.3"), // a liar
			nodeAt("n1-5052", "10.0.0.1:5052", "10.0.0.1", "fd00::1"),
		},
		Ranges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		Node: &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{api.AnnotationAgentAddress: "10.0.0.1:5051"}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}, {Type: corev1.NodeInternalIP, Address: "fd00::1"},
				{Type: corev1.NodeInternalIP, Address: "10.96.0.1"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.2"},
				{Type: corev1.NodeInternalIP, Address: "10.0.0.3"}, {Type: corev1.NodeInternalDNS, Address: "kubernetes.default.svc"},
			}},
		},
		Request: &certificatesv1.CertificateSigningRequest{
			Spec: certificatesv1.CertificateSigningRequestSpec{
				Request:    signed(t, template),
				SignerName: certificatesv1.KubeletServingSignerName,
				Username:   api.NodeUserPrefix + "n1",
				Groups:     []string{api.NodesGroup, "system:authenticated"},
				Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
			},
		},
	}
}

// nodeAt is a node whose status has these addresses, and whose agent has that one.
func nodeAt(name, agent string, addresses ...string) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{api.AnnotationAgentAddress: agent}}}
	for _, address := range addresses {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address})
	}
	return node
}

func but(f Facts, change func(*Facts)) Facts {
	change(&f)
	return f
}

// decisions are what is to become of requests; the key says which rule that is.
type decisions map[string]struct {
	facts Facts
	want  Verdict
}

func (d decisions) check(t *testing.T) {
	t.Helper()
	for name, test := range d {
		got, reason := Decide(test.facts)
		if got != test.want {
			t.Errorf("%s: got %s (%s), want %s", name, got, reason, test.want)
		}
		if got != Ignore && reason == "" {
			t.Errorf("%s: no reason is given", name)
		}
	}
}

func TestBootstrapTokenIsForOneNodesClientCertificate(t *testing.T) {
	with := func(change func(*x509.CertificateRequest)) Facts { return clientRequest(t, change) }
	usages := func(change func([]certificatesv1.KeyUsage) []certificatesv1.KeyUsage) Facts {
		return but(clientRequest(t, nil), func(f *Facts) { f.Request.Spec.Usages = change(f.Request.Spec.Usages) })
	}
	organizations := func(names ...string) Facts {
		return with(func(r *x509.CertificateRequest) { r.Subject.Organization = names })
	}
	own := clientRequest(t, nil)
	decisions{
		"its own node":           {clientRequest(t, nil), Approve},
		"the same key again":     {usedBy(own, own), Approve},
		"a used token":           {usedBy(clientRequest(t, nil), own), Deny},
		"a token that has ended": {but(clientRequest(t, nil), func(f *Facts) { f.Token = nil }), Deny},
		"another node":           {with(func(r *x509.CertificateRequest) { r.Subject = subject("n2") }), Deny},
		"a token for no node":    {but(clientRequest(t, nil), func(f *Facts) { f.Token = tokenFor("") }), Deny},
		"administrators' group":  {organizations("system:masters"), Deny},
		"two groups":             {organizations(api.NodesGroup, "system:masters"), Deny},
		"no group":               {organizations(), Deny},
		"an address":             {with(func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv6loopback} }), Deny},
		"a URI":                  {with(func(r *x509.CertificateRequest) { r.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }), Deny},
		"what is not a request":  {but(clientRequest(t, nil), func(f *Facts) { f.Request.Spec.Request = []byte("x") }), Deny},
		"usages of an RSA key":   {usages(plus(certificatesv1.UsageKeyEncipherment)), Approve},
		"usage of a server":      {usages(plus(certificatesv1.UsageServerAuth)), Deny},
		"no usage of a client":   {usages(only(certificatesv1.UsageDigitalSignature)), Deny},
		"no usage for signing":   {usages(only(certificatesv1.UsageClientAuth)), Deny},
		"any client certificate": {signer(clientRequest(t, nil), certificatesv1.KubeAPIServerClientSignerName), Deny},
		"a serving certificate":  {signer(serving(t, nil), certificatesv1.KubeletServingSignerName, "system:bootstrap:abcdef"), Deny},
	}.check(t)
}

func TestKubeletServesUnderItsNodesNamesOnly(t *testing.T) {
	with := func(change func(*x509.CertificateRequest)) Facts { return serving(t, change) }
	names := func(names ...string) Facts {
		return with(func(r *x509.CertificateRequest) { r.DNSNames = names })
	}
	at := func(addresses ...string) Facts {
		return with(func(r *x509.CertificateRequest) {
			r.IPAddresses = nil
			for _, address := range addresses {
				r.IPAddresses = append(r.IPAddresses, net.ParseIP(address))
			}
		})
	}
	agent := func(endpoint string, f Facts) Facts {
		return but(f, func(f *Facts) { f.Node.Annotations[api.AnnotationAgentAddress] = endpoint })
	}
	decisions{
		"its own names":        {serving(t, nil), Approve},
		"a name in its status": {names("kubernetes.default.svc"), Deny},
		"its other family":     {at("10.0.0.1", "fd00::1"), Approve},
		"another agent's":      {at("10.0.0.1", "10.0.0.2"), Wait},
		"what two nodes claim": {at("10.0.0.3"), Wait},
		"a service's":          {at("10.96.0.1"), Deny},
		"this machine's":       {at("127.0.0.1"), Deny},
		"not in its status":    {at("10.0.0.9"), Wait},
		"of an unknown agent":  {agent("", serving(t, nil)), Wait},
		"agent on loopback":    {agent("127.0.0.1:5051", at("fd00::1")), Wait},
		"agents on loopback": {but(agent("127.0.0.1:5051", at("10.0.0.1")), func(f *Facts) {
			f.Nodes = []*corev1.Node{nodeAt("n1-5052", "127.0.0.1:5052", "10.0.0.1")}
		}), Approve},
		"no names":              {with(func(r *x509.CertificateRequest) { r.DNSNames, r.IPAddresses = nil, nil }), Deny},
		"a name of others":      {names("n1", "kubernetes"), Deny},
		"an address of others":  {with(func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 2)} }), Wait},
		"before the node":       {but(serving(t, nil), func(f *Facts) { f.Node = nil }), Wait},
		"another node":          {with(func(r *x509.CertificateRequest) { r.Subject = subject("n2") }), Deny},
		"a mail address":        {with(func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b"} }), Deny},
		"usage of a client":     {but(serving(t, nil), func(f *Facts) { f.Request.Spec.Usages = clientUsages }), Deny},
		"what is not a request": {but(serving(t, nil), func(f *Facts) { f.Request.Spec.Request = nil }), Deny},
	}.check(t)
}

func TestOtherRequestsAreLeftToOthers(t *testing.T) {
	decisions{
		"a node renews its certificate": {signer(clientRequest(t, nil),
			certificatesv1.KubeAPIServerClientKubeletSignerName, "system:node:n1"), Ignore},
		"a person asks":                {signer(serving(t, nil), certificatesv1.KubeletServingSignerName, "jane"), Ignore},
		"a node's name, not its group": {but(serving(t, nil), func(f *Facts) { f.Request.Spec.Groups = nil }), Ignore},
	}.check(t)
}

var clientUsages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}

func plus(u certificatesv1.KeyUsage) func([]certificatesv1.KeyUsage) []certificatesv1.KeyUsage {
	return func(usages []certificatesv1.KeyUsage) []certificatesv1.KeyUsage { return append(usages, u) }
}

func only(u certificatesv1.KeyUsage) func([]certificatesv1.KeyUsage) []certificatesv1.KeyUsage {
	return func([]certificatesv1.KeyUsage) []certificatesv1.KeyUsage { return []certificatesv1.KeyUsage{u} }
}

// signer gives the request to another signer, and to another user if one is named.
func signer(f Facts, name string, user ...string) Facts {
	f.Request.Spec.SignerName = name
	for _, u := range user {
		f.Request.Spec.Username = u
	}
	return f
}
