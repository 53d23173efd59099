package approver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	return pkix.Name{CommonName: nodeUserPrefix + node, Organization: []string{nodesGroup}}
}

// clientRequest is what a kubelet asks for with a bootstrap token for node n1.
func clientRequest(t *testing.T, change func(*x509.CertificateRequest)) Facts {
	template := x509.CertificateRequest{Subject: subject("n1")}
	if change != nil {
		change(&template)
	}
	return Facts{TokenNode: "n1", Request: &certificatesv1.CertificateSigningRequest{
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    signed(t, template),
			SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Username:   bootstrapUserPrefix + "abcdef",
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}}
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
		Node: &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1"},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}, {Type: corev1.NodeHostName, Address: "n1.example"},
			}},
		},
		Request: &certificatesv1.CertificateSigningRequest{
			Spec: certificatesv1.CertificateSigningRequestSpec{
				Request:    signed(t, template),
				SignerName: certificatesv1.KubeletServingSignerName,
				Username:   nodeUserPrefix + "n1",
				Groups:     []string{nodesGroup, "system:authenticated"},
				Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
			},
		},
	}
}

func but(f Facts, change func(*Facts)) Facts {
	change(&f)
	return f
}

func TestDecide(t *testing.T) {
	stranger := func(r *x509.CertificateRequest) { r.Subject = subject("n2") }
	for name, test := range map[string]struct {
		facts Facts
		want  Verdict
	}{
		"a token's own node is approved":       {clientRequest(t, nil), Approve},
		"a token for another node is denied":   {clientRequest(t, stranger), Deny},
		"a token for no node is denied":        {but(clientRequest(t, nil), func(f *Facts) { f.TokenNode = "" }), Deny},
		"a token for an administrator's group": {clientRequest(t, func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"system:masters"} }), Deny},
		"a token for two groups": {clientRequest(t, func(r *x509.CertificateRequest) {
			r.Subject.Organization = []string{nodesGroup, "system:masters"}
		}), Deny},
		"a token for an address": {clientRequest(t, func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }), Deny},
		"a token for a URI":      {clientRequest(t, func(r *x509.CertificateRequest) { r.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }), Deny},
		"a token for a server's usage": {but(clientRequest(t, nil), func(f *Facts) {
			f.Request.Spec.Usages = append(f.Request.Spec.Usages, certificatesv1.UsageServerAuth)
		}), Deny},
		"a token for no client's usage": {but(clientRequest(t, nil), func(f *Facts) {
			f.Request.Spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature}
		}), Deny},
		"an RSA key's usage too": {but(clientRequest(t, nil), func(f *Facts) {
			f.Request.Spec.Usages = append(f.Request.Spec.Usages, certificatesv1.UsageKeyEncipherment)
		}), Approve},
		"a token with another signer": {but(clientRequest(t, nil), func(f *Facts) {
			f.Request.Spec.SignerName = certificatesv1.KubeAPIServerClientSignerName
		}), Deny},
		"a token with no request": {but(clientRequest(t, nil), func(f *Facts) { f.Request.Spec.Request = []byte("x") }), Deny},

		"a node's renewal is left to the stock approver": {but(clientRequest(t, nil), func(f *Facts) {
			f.Request.Spec.Username = nodeUserPrefix + "n1"
		}), Ignore},
		"a person's request is left to administrators": {but(serving(t, nil), func(f *Facts) {
			f.Request.Spec.Username, f.Request.Spec.Groups = "jane", nil
		}), Ignore},
		"a node's name without its group is left alone": {but(serving(t, nil), func(f *Facts) { f.Request.Spec.Groups = nil }), Ignore},

		"a node's own addresses are approved": {serving(t, nil), Approve},
		"a hostname from the status":          {serving(t, func(r *x509.CertificateRequest) { r.DNSNames = []string{"n1.example"} }), Approve},
		"another node's subject":              {serving(t, stranger), Deny},
		"a name that is not the node's (yet)": {serving(t, func(r *x509.CertificateRequest) { r.DNSNames = []string{"kubernetes"} }), Wait},
		"an address that is not the node's (yet)": {serving(t, func(r *x509.CertificateRequest) {
			r.IPAddresses = append(r.IPAddresses, net.IPv4(10, 0, 0, 2))
		}), Wait},
		"a node that does not exist (yet)": {but(serving(t, nil), func(f *Facts) { f.Node = nil }), Wait},
		"no name at all":                   {serving(t, func(r *x509.CertificateRequest) { r.DNSNames, r.IPAddresses = nil, nil }), Deny},
		"a mail address":                   {serving(t, func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b"} }), Deny},
		"a client's usage": {but(serving(t, nil), func(f *Facts) {
			f.Request.Spec.Usages = append(f.Request.Spec.Usages, certificatesv1.UsageClientAuth)
		}), Deny},
	} {
		t.Run(name, func(t *testing.T) {
			got, reason := Decide(test.facts)
			if got != test.want {
				t.Errorf("got %s (%s), want %s", got, reason, test.want)
			}
			if got != Ignore && reason == "" {
				t.Error("no reason is given")
			}
		})
	}
}
