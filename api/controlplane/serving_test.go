package controlplane

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/keyutil"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/statedir"
)

// signedBy returns a certificate of the authority in these files, for an hour.
func signedBy(t *testing.T, certFile, keyFile string, template *x509.Certificate) (der []byte, key *ecdsa.PrivateKey) {
	t.Helper()
	authority, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	if der, err = x509.CreateCertificate(rand.Reader, template, authority.Leaf, key.Public(), authority.PrivateKey); err != nil {
		t.Fatal(err)
	}
	return der, key
}

// nodeClient has the identity of the node's kubelet.
func nodeClient(t *testing.T, dir statedir.Dir, node string) kubernetes.Interface {
	t.Helper()
	der, key := signedBy(t, dir.CAIssuer(), dir.CAKey(), &x509.Certificate{
		Subject:     nodeSubject(node),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	var err error
	config := rest.AnonymousClientConfig(adminConfig(t, dir))
	config.CertData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if config.KeyData, err = keyutil.MarshalPrivateKeyToPEM(key); err != nil {
		t.Fatal(err)
	}
	return clientOf(t, config)
}

// createNode does what the scheduler does when an agent's first offer arrives.
func createNode(t *testing.T, dir statedir.Dir, name, address string) {
	t.Helper()
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{api.AnnotationAgentAddress: address + ":5051"}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: address}, {Type: corev1.NodeHostName, Address: name},
		}},
	}
	if _, err := schedulerClient(t, dir).CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// servingRequest is a node's request for a serving certificate.
func servingRequest(t *testing.T, node string, names []string, addresses ...net.IP) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	request, _ := signedRequest(t, x509.CertificateRequest{Subject: nodeSubject(node), DNSNames: names, IPAddresses: addresses})
	request.Spec.SignerName = certificatesv1.KubeletServingSignerName
	request.Spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
	return request
}

// testServing lets a node claim names and addresses of others in its status, and request certificates for them.
func testServing(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	createNode(t, dir, "s1", "192.0.2.11")
	createNode(t, dir, "s2", "192.0.2.12")
	kubelet := nodeClient(t, dir, "s1")
	eventually(t, func(ctx context.Context) string { // controllers write nodes, too
		node, err := kubelet.CoreV1().Nodes().Get(ctx, "s1", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		node.Status.Addresses = append(node.Status.Addresses,
			corev1.NodeAddress{Type: corev1.NodeInternalDNS, Address: "kubernetes.default.svc"},
			corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "192.0.2.12"},
			corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "2001:db8::11"})
		_, err = kubelet.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
		return problemOf(err)
	})

	condition, got := decided(t, kubelet, admin, servingRequest(t, "s1", []string{"s1", "kubernetes.default.svc"}))
	if condition != certificatesv1.CertificateDenied {
		t.Errorf("a certificate for kubernetes.default.svc: %s; clients of the cluster's CA say %v", condition, believed(t, dir.CA(), got, "kubernetes.default.svc"))
	}
	stolen, err := kubelet.CertificatesV1().CertificateSigningRequests().
		Create(t.Context(), servingRequest(t, "s1", nil, net.ParseIP("192.0.2.12")), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The approver takes requests in order: when it has approved this one, it has seen the other.
	condition, got = decided(t, kubelet, admin, servingRequest(t, "s1", []string{"s1"}, net.ParseIP("192.0.2.11"), net.ParseIP("2001:db8::11")))
	if condition != certificatesv1.CertificateApproved {
		t.Fatalf("a certificate for the node itself: %s", condition)
	}
	if err := believed(t, dir.KubeletServingCA(), got, "192.0.2.11"); err != nil {
		t.Errorf("the API server does not believe the kubelet: %v", err)
	}
	if believed(t, dir.CA(), got, "s1") == nil {
		t.Error("clients of the API server believe a kubelet")
	}
	stolen, err = admin.CertificatesV1().CertificateSigningRequests().Get(t.Context(), stolen.Name, metav1.GetOptions{})
	if err != nil || len(stolen.Status.Conditions) > 0 {
		t.Errorf("a certificate for the address of another node: %+v, %v", stolen.Status.Conditions, err)
	}
}

// believed returns nil if a client of the authority takes the certificate for the host's.
func believed(t *testing.T, authority string, certificate []byte, host string) error {
	t.Helper()
	data, err := os.ReadFile(authority)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(data)
	block, _ := pem.Decode(certificate)
	if block == nil {
		t.Fatal("there is no certificate")
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	_, err = parsed.Verify(x509.VerifyOptions{Roots: roots, DNSName: host})
	return err
}
