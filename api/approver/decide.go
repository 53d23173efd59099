package approver

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
)

// Verdict is a decision about a certificate signing request.
type Verdict int

const (
	// Ignore leaves the request to others: the stock approver or an administrator.
	Ignore Verdict = iota
	// Approve lets the signer sign.
	Approve
	// Deny rejects the request with a reason.
	Deny
	// Wait is for a request that may become valid when the node's status is complete.
	Wait
)

// String returns the verdict as a word.
func (v Verdict) String() string {
	switch v {
	case Approve:
		return "approve"
	case Deny:
		return "deny"
	case Wait:
		return "wait"
	default:
		return "ignore"
	}
}

// Facts are the input of a decision.
type Facts struct {
	Request *certificatesv1.CertificateSigningRequest
	// Token is the secret of the requester's bootstrap token; nil if the requester has none.
	Token *corev1.Secret
	// Node is the node that the requester claims to be; nil if it does not exist.
	Node *corev1.Node
	// Nodes are all nodes.
	Nodes []*corev1.Node
	// Ranges are those of services and pods: no machine has an address in them.
	Ranges []netip.Prefix
}

const bootstrapUserPrefix = "system:bootstrap:"

// Decide returns the verdict on a pending request, and the reason. The signers' own rules are at
// https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers.
func Decide(f Facts) (Verdict, string) {
	spec := f.Request.Spec
	fromToken := strings.HasPrefix(spec.Username, bootstrapUserPrefix)
	switch {
	case fromToken && spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName:
		return Deny, "a bootstrap token may request only a kubelet's client certificate"
	case fromToken:
		return decideClient(f)
	case spec.SignerName == certificatesv1.KubeletServingSignerName && isNode(spec):
		return decideServing(f)
	default:
		return Ignore, ""
	}
}

func isNode(spec certificatesv1.CertificateSigningRequestSpec) bool {
	return strings.HasPrefix(spec.Username, api.NodeUserPrefix) && slices.Contains(spec.Groups, api.NodesGroup)
}

// decideClient decides about the first certificate of a node. The node requests later ones with the previous one, and the stock
// approver handles those.
func decideClient(f Facts) (Verdict, string) {
	request, err := parse(f.Request.Spec.Request)
	if err != nil {
		return Deny, err.Error()
	}
	if f.Token == nil {
		return Deny, "the bootstrap token has ended"
	}
	node, used := f.Token.Labels[api.LabelNode], f.Token.Annotations[api.AnnotationTokenKey]
	if node == "" {
		return Deny, "the bootstrap token names no node"
	}
	if problem := subjectProblem(request, api.NodeUserPrefix+node); problem != "" {
		return Deny, problem
	}
	if used != "" && used != keyOf(request) {
		return Deny, "the bootstrap token was used before, with another key"
	}
	if len(request.DNSNames)+len(request.IPAddresses)+len(request.EmailAddresses)+len(request.URIs) > 0 {
		return Deny, "a client certificate must not have subject alternative names"
	}
	if !usagesAre(f.Request.Spec.Usages, certificatesv1.UsageClientAuth) {
		return Deny, "the key usages are not those of a client certificate"
	}
	return Approve, "the bootstrap token is for node " + node
}

// keyOf identifies the public key in a request.
func keyOf(request *x509.CertificateRequest) string {
	sum := sha256.Sum256(request.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// decideServing decides about the certificate with which a kubelet serves logs, exec and metrics.
func decideServing(f Facts) (Verdict, string) {
	request, err := parse(f.Request.Spec.Request)
	if err != nil {
		return Deny, err.Error()
	}
	if problem := subjectProblem(request, f.Request.Spec.Username); problem != "" {
		return Deny, problem
	}
	if len(request.EmailAddresses)+len(request.URIs) > 0 || len(request.DNSNames)+len(request.IPAddresses) == 0 {
		return Deny, "a kubelet's certificate must be for DNS names and IP addresses"
	}
	if !usagesAre(f.Request.Spec.Usages, certificatesv1.UsageServerAuth) {
		return Deny, "the key usages are not those of a serving certificate"
	}
	if f.Node == nil {
		return Wait, "the node does not exist yet"
	}
	for _, name := range request.DNSNames {
		if name != f.Node.Name {
			return Deny, fmt.Sprintf("%s is not the name of the node", name)
		}
	}
	for _, address := range request.IPAddresses {
		ip, _ := netip.AddrFromSlice(address)
		if verdict, reason := decideAddress(f, ip.Unmap()); verdict != Approve {
			return verdict, reason
		}
	}
	return Approve, "the name and all addresses are the node's"
}

// decideAddress decides whether the node may serve at the address. Its agent's address is the node's by what Mesos says. The node may
// have more: of the other IP family, or because its agent advertises an address that the machine does not have. These only the node
// knows. So it gets them if they can be no one else's.
func decideAddress(f Facts, ip netip.Addr) (Verdict, string) {
	agent, ok := agentAddress(f.Node)
	switch {
	case !ip.IsGlobalUnicast():
		return Deny, fmt.Sprintf("%s is not an address at which others reach a machine", ip)
	case slices.ContainsFunc(f.Ranges, func(r netip.Prefix) bool { return r.Contains(ip) }):
		return Deny, fmt.Sprintf("%s is in a range of services or pods", ip)
	case !ok:
		return Wait, fmt.Sprintf("the scheduler has not written the address of the agent of node %s yet", f.Node.Name)
	case ip == agent:
		return Approve, ""
	case !reports(f.Node, ip):
		return Wait, fmt.Sprintf("%s is not among the addresses in the status of node %s", ip, f.Node.Name)
	}
	for _, other := range f.Nodes {
		theirs, ok := agentAddress(other)
		sameMachine := ok && (theirs == agent || theirs.IsLoopback() && agent.IsLoopback())
		if other.Name != f.Node.Name && !sameMachine && (theirs == ip || reports(other, ip)) {
			return Wait, fmt.Sprintf("node %s has the address %s, too, and is on another machine", other.Name, ip)
		}
	}
	return Approve, ""
}

// agentAddress returns the address of the node's agent, as the scheduler wrote it.
func agentAddress(node *corev1.Node) (netip.Addr, bool) {
	endpoint, err := netip.ParseAddrPort(node.Annotations[api.AnnotationAgentAddress])
	return endpoint.Addr().Unmap(), err == nil
}

// reports tells whether the node's status has the address.
func reports(node *corev1.Node, ip netip.Addr) bool {
	return slices.ContainsFunc(node.Status.Addresses, func(a corev1.NodeAddress) bool {
		own, err := netip.ParseAddr(a.Address)
		return err == nil && own.Unmap() == ip
	})
}

// subjectProblem returns why the subject is not that of the node's user, or "".
func subjectProblem(request *x509.CertificateRequest, user string) string {
	if request.Subject.CommonName != user {
		return fmt.Sprintf("the common name is %q and must be %q", request.Subject.CommonName, user)
	}
	if !slices.Equal(request.Subject.Organization, []string{api.NodesGroup}) {
		return fmt.Sprintf("the organization must be %s alone", api.NodesGroup)
	}
	return ""
}

// usagesAre reports whether the key usages are those of a kubelet: the purpose, signing, and for RSA keys encipherment.
func usagesAre(usages []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) bool {
	for _, u := range usages {
		if u != purpose && u != certificatesv1.UsageDigitalSignature && u != certificatesv1.UsageKeyEncipherment {
			return false
		}
	}
	return slices.Contains(usages, purpose) && slices.Contains(usages, certificatesv1.UsageDigitalSignature)
}

func parse(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, fmt.Errorf("the request is not a PEM block CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}
