package minion

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/k8sm/k8sm/api"
)

// named is a CA whose name is another than that of the others.
func named(t *testing.T, name string) *authority {
	t.Helper()
	a := newAuthority(t)
	template := *a.cert
	template.Subject, template.RawSubject = pkix.Name{CommonName: name}, nil
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// signing is an API server where each request is signed at once by what sign returns.
func signing(t *testing.T, node string, sign func(signer string) *authority) (client *fake.Clientset, requests *[]string) {
	t.Helper()
	client, requests = fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}), new([]string)
	client.PrependReactor("create", "certificatesigningrequests", func(action clienttesting.Action) (bool, runtime.Object, error) {
		request := action.(clienttesting.CreateAction).GetObject().(*certificatesv1.CertificateSigningRequest).DeepCopy()
		*requests = append(*requests, request.Spec.SignerName)
		request.Name, request.UID = fmt.Sprintf("csr-%d", len(*requests)), types.UID(fmt.Sprint(len(*requests)))
		block, _ := pem.Decode(request.Spec.Request)
		asked, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			return true, nil, err
		}
		by := sign(request.Spec.SignerName)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: asked.Subject, DNSNames: asked.DNSNames, IPAddresses: asked.IPAddresses,
			NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		}, by.cert, asked.PublicKey, by.key)
		if err != nil {
			return true, nil, err
		}
		request.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		request.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}
		if len(*requests) > 1 { // the fake lists all, whatever name is asked for
			before := fmt.Sprintf("csr-%d", len(*requests)-1)
			if err := client.Tracker().Delete(action.GetResource(), "", before); err != nil {
				return true, nil, err
			}
		}
		return true, request, client.Tracker().Add(request)
	})
	return client, requests
}

// rotating is a node with certificates of the former CAs.
func rotating(t *testing.T, cluster, serving *authority) *node {
	t.Helper()
	files, boot := testNode(t, cluster)
	for _, target := range []string{files.certificate(), files.servingCertificate()} {
		dated := strings.Replace(target, "current", "2026-11-30-00-00-00", 1)
		if target == files.certificate() {
			cluster.issue(dated, api.NodeUserPrefix+boot.Node)
		} else {
			serving.issueFor(dated, api.NodeUserPrefix+boot.Node, x509.ExtKeyUsageServerAuth, boot.Node)
		}
		if err := os.Symlink(dated, target); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(files.ca(), cluster.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	return &node{boot: boot, files: files, log: logrus.WithField("node", boot.Node)}
}

func TestNodeTakesOverTheNextCAs(t *testing.T) {
	former, formerServing, next, nextServing := named(t, "former"), named(t, "former serving"), named(t, "next"), named(t, "next serving")
	n := rotating(t, former, formerServing)
	client, requests := signing(t, n.boot.Node, func(signer string) *authority {
		if signer == certificatesv1.KubeletServingSignerName {
			return nextServing
		}
		return next
	})
	restarts := 0
	take := func(config api.MinionConfig) {
		t.Helper()
		if err := n.takeAuthorities(t.Context(), client, config, func() { restarts++ }); err != nil {
			t.Fatal(err)
		}
	}
	told := func() string {
		t.Helper()
		object, err := client.CoreV1().Nodes().Get(t.Context(), n.boot.Node, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return object.Annotations[api.AnnotationAuthorities]
	}
	id := func(a *authority) string { return api.AuthorityID(a.cert) }

	begun := api.MinionConfig{CA: bytes.Join([][]byte{former.pem, next.pem}, nil), KubeletServingCA: bytes.Join([][]byte{formerServing.pem, nextServing.pem}, nil)}
	take(begun)
	if want := fmt.Sprintf(`{"trusts":["%s","%s"],"client":"%s","serving":"%s"}`, id(former), id(next), id(former), id(formerServing)); told() != want || restarts != 1 || len(*requests) != 0 {
		t.Errorf("after begin: %s, want %s; %d restarts, requests %q", told(), want, restarts, *requests)
	}
	chain := nextServing.pem // in which the former vouches for it, in a cluster
	issued := api.MinionConfig{CA: bytes.Join([][]byte{next.pem, former.pem}, nil), KubeletServingCA: bytes.Join([][]byte{nextServing.pem, formerServing.pem}, nil), KubeletServingChain: chain}
	for range 2 { // the second time, there is nothing to do
		take(issued)
	}
	if want := fmt.Sprintf(`{"trusts":["%s","%s"],"client":"%s","serving":"%s"}`, id(next), id(former), id(next), id(nextServing)); told() != want || restarts != 2 {
		t.Errorf("after issue: %s, want %s; %d restarts", told(), want, restarts)
	}
	if diff := cmp.Diff([]string{certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName}, *requests); diff != "" {
		t.Error(diff)
	}
	pair, err := tls.LoadX509KeyPair(n.files.servingCertificate(), n.files.servingCertificate())
	if err != nil || len(pair.Certificate) != 2 || pair.Leaf.Subject.CommonName != api.NodeUserPrefix+n.boot.Node || cmp.Diff([]string{n.boot.Node}, pair.Leaf.DNSNames) != "" {
		t.Errorf("it serves with %d certificates, the first of %v for %q: %v", len(pair.Certificate), pair.Leaf.Subject, pair.Leaf.DNSNames, err)
	}
	take(api.MinionConfig{CA: next.pem, KubeletServingCA: nextServing.pem, KubeletServingChain: chain})
	if want := fmt.Sprintf(`{"trusts":["%s"],"client":"%s","serving":"%s"}`, id(next), id(next), id(nextServing)); told() != want || restarts != 3 || len(*requests) != 2 {
		t.Errorf("after finish: %s, want %s; %d restarts, requests %q", told(), want, restarts, *requests)
	}
	take(api.MinionConfig{KubeletServingCA: nextServing.pem}) // an older control plane
	if restarts != 3 {
		t.Error("an older control plane restarts kubelets")
	}
}

func TestNodeKeepsItsCertificateUntilTheNextCASigns(t *testing.T) {
	former, serving, next := named(t, "former"), named(t, "serving"), named(t, "next")
	n := rotating(t, former, serving)
	client, _ := signing(t, n.boot.Node, func(string) *authority { return former })
	err := n.takeAuthorities(t.Context(), client, api.MinionConfig{CA: bytes.Join([][]byte{next.pem, former.pem}, nil), KubeletServingCA: serving.pem}, func() { t.Error("the kubelet starts again") })
	if err == nil || !strings.Contains(err.Error(), "does not sign yet") {
		t.Errorf("got %v", err)
	}
	if cert, err := readCertificate(n.files.certificate()); err != nil || cert.CheckSignatureFrom(former.cert) != nil {
		t.Errorf("%v, %v", cert, err)
	}
}

// The part that fails is started again after a pause.
func TestWatchOnCAsEndsWithAProblemAndGoesOn(t *testing.T) {
	former, serving, next := named(t, "former"), named(t, "serving"), named(t, "next")
	n := rotating(t, former, serving)
	signer := former
	client, _ := signing(t, n.boot.Node, func(string) *authority { return signer })
	config, err := json.Marshal(api.MinionConfig{CA: bytes.Join([][]byte{next.pem, former.pem}, nil), KubeletServingCA: serving.pem})
	if err != nil {
		t.Fatal(err)
	}
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: api.MinionConfigNamespace, Name: api.MinionConfigName}, Data: map[string]string{api.MinionConfigKey: string(config)}}
	if err := client.Tracker().Add(object); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := n.followAuthorities(ctx, client, func() {}); err == nil || !strings.Contains(err.Error(), "does not sign yet") {
		t.Errorf("got %v", err)
	}
	signer = next
	if err := n.followAuthorities(ctx, client, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if cert, err := readCertificate(n.files.certificate()); err != nil || cert.CheckSignatureFrom(next.cert) != nil {
		t.Errorf("%v, %v", cert, err)
	}
}

// An executor's data are those of its launch. Its CA may have been replaced since.
func TestNodeOfAnOlderExecutorBelievesTheCAsThatItKnew(t *testing.T) {
	former, next := named(t, "former"), named(t, "next")
	n := rotating(t, former, former)
	n.cfg.Given.RootDir = strings.TrimSuffix(n.files.dir, "/k8sm/agent-1")
	if err := os.WriteFile(n.files.ca(), next.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.believeEarlier(); err != nil {
		t.Fatal(err)
	}
	for _, a := range []*authority{former, next} {
		if err := verify(a.cert, n.boot.CA, time.Now(), x509.ExtKeyUsageAny); err != nil {
			t.Errorf("at the start: %v", err)
		}
	}
	n.cluster.CA = next.pem
	if err := n.believeCluster(); err != nil || !bytes.Equal(n.boot.CA, next.pem) {
		t.Errorf("then: %s, %v", n.boot.CA, err)
	}
	n.cluster.CA = nil
	if err := n.believeCluster(); err != nil || !bytes.Equal(n.boot.CA, former.pem) {
		t.Errorf("without a configuration: %s, %v", n.boot.CA, err)
	}
}

func TestPartIsStartedAgainWhenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		starts := 0
		r := newRestartable(func(ctx context.Context) error { starts++; <-ctx.Done(); return ctx.Err() })
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		synctest.Wait()
		r.Restart()
		synctest.Wait()
		r.Restart()
		synctest.Wait()
		if starts != 3 {
			t.Errorf("%d starts", starts)
		}
		stop()
		if err := <-ended; err == nil {
			t.Error("no error")
		}
	})
}
