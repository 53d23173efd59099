// Package approver approves the certificates of nodes: a kubelet's first client certificate, requested with a bootstrap token, and
// its serving certificate. It makes sure that a bootstrap token works for one key of one node only, which stock Kubernetes does not
// check, and ends tokens that have done their work. The package must not import k8s.io/kubernetes.
//
// Start reading at Decide, which has all the rules. Run only fetches what Decide needs, and writes down its verdict.
package approver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/k8sm/k8sm/api"
)

const (
	// Back-off for a request that waits for its node, or whose verdict could not be written.
	firstRetry = 200 * time.Millisecond
	lastRetry  = 15 * time.Second
	// longWait is after how many looks at a request that waits an operator is told: after about 25 s.
	longWait = 7
	// usedGrace is how long a token stays valid after its certificate was approved: a kubelet that missed the answer asks again.
	usedGrace = 2 * time.Minute
)

// approver fetches what Decide needs.
type approver struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	ranges []netip.Prefix
}

// Run decides about requests, and ends tokens, until ctx is done. The client must be allowed to read requests and nodes, to read and
// write the secrets of kube-system, and to approve for the kubelets' signers. ranges are those of services and pods.
func Run(ctx context.Context, client kubernetes.Interface, ranges []netip.Prefix) error {
	queue := workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry))
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(lean))
	a := approver{client: client, nodes: factory.Core().V1().Nodes().Lister(), ranges: ranges}
	requests := factory.Certificates().V1().CertificateSigningRequests()
	add := func(obj any) { queue.Add(obj.(*certificatesv1.CertificateSigningRequest).Name) }
	_, err := requests.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    add,
		UpdateFunc: func(_, obj any) { add(obj) },
	})
	if err != nil {
		return fmt.Errorf("cannot watch certificate signing requests: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()

	var worker sync.WaitGroup
	worker.Go(func() { endTokens(ctx, client, factory) })
	worker.Go(func() {
		factory.WaitForCacheSync(ctx.Done()) // all nodes must be known before any gets an address
		for {
			name, shutdown := queue.Get()
			if shutdown {
				return
			}
			request, err := requests.Lister().Get(name)
			if err == nil {
				err = a.handle(ctx, request)
			}
			again(ctx, queue, name, err)
		}
	})
	<-ctx.Done()
	queue.ShutDown()
	worker.Wait()
	return nil
}

// lean keeps of a node what Decide needs.
func lean(obj any) (any, error) {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, ResourceVersion: node.ResourceVersion, Annotations: map[string]string{
			api.AnnotationAgentAddress:  node.Annotations[api.AnnotationAgentAddress],
			api.AnnotationMinionStarted: node.Annotations[api.AnnotationMinionStarted],
		}},
		Status: corev1.NodeStatus{Addresses: node.Status.Addresses},
	}, nil
}

// again requeues the request if it needs another look.
func again(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string], name string, err error) {
	defer queue.Done(name)
	if err == nil || apierrors.IsNotFound(err) || ctx.Err() != nil {
		queue.Forget(name)
		return
	}
	if !errors.Is(err, errWait) {
		logrus.WithError(err).WithField("csr", name).Warn("cannot decide about a certificate signing request; retrying")
	} else if queue.NumRequeues(name) == longWait {
		logrus.WithField("csr", name).Warn(err)
	}
	queue.AddRateLimited(name)
}

// errWait is for a request that must be checked again later.
var errWait = errors.New("the request must wait")

func (a approver) handle(ctx context.Context, request *certificatesv1.CertificateSigningRequest) error {
	if len(request.Status.Conditions) > 0 || len(request.Status.Certificate) > 0 {
		return nil
	}
	facts, err := a.gather(ctx, request)
	if err != nil {
		return err
	}
	verdict, reason := Decide(facts)
	switch verdict {
	case Ignore:
		return nil
	case Wait:
		return fmt.Errorf("%w: %s", errWait, reason)
	}
	if verdict == Approve && facts.Token != nil {
		if err := a.use(ctx, facts.Token, request); err != nil {
			return fmt.Errorf("cannot note that the bootstrap token was used: %w", err)
		}
	}
	decided := request.DeepCopy()
	decided.Status.Conditions = append(decided.Status.Conditions, condition(verdict, reason))
	_, err = a.client.CertificatesV1().CertificateSigningRequests().
		UpdateApproval(ctx, request.Name, decided, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("cannot %s: %w", verdict, err)
	}
	log := logrus.WithFields(logrus.Fields{"csr": request.Name, "user": request.Spec.Username, "reason": reason})
	if verdict == Deny {
		log.Warn("denied a certificate")
		return nil
	}
	log.Info("approved a certificate")
	return nil
}

// use binds the token to the request's key, before the request is approved, and ends it soon.
func (a approver) use(ctx context.Context, token *corev1.Secret, request *certificatesv1.CertificateSigningRequest) error {
	if token.Annotations[api.AnnotationTokenKey] != "" {
		return nil
	}
	parsed, err := parse(request.Spec.Request)
	if err != nil {
		return err
	}
	used := token.DeepCopy()
	metav1.SetMetaDataAnnotation(&used.ObjectMeta, api.AnnotationTokenKey, keyOf(parsed))
	used.Data["expiration"] = []byte(time.Now().Add(usedGrace).UTC().Format(time.RFC3339))
	_, err = a.client.CoreV1().Secrets(used.Namespace).Update(ctx, used, metav1.UpdateOptions{}) // fails if it has changed meanwhile
	return err
}

// gather fetches the Facts about the request.
func (a approver) gather(ctx context.Context, request *certificatesv1.CertificateSigningRequest) (facts Facts, err error) {
	facts.Request, facts.Ranges = request, a.ranges
	if id, ok := strings.CutPrefix(request.Spec.Username, bootstrapUserPrefix); ok {
		secret, err := a.client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, api.BootstrapSecretPrefix+id, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return Facts{}, fmt.Errorf("cannot read the bootstrap token: %w", err)
		}
		if err == nil {
			facts.Token = secret
		}
		return facts, nil
	}
	if name, ok := strings.CutPrefix(request.Spec.Username, api.NodeUserPrefix); ok {
		if facts.Nodes, err = a.nodes.List(labels.Everything()); err != nil {
			return Facts{}, fmt.Errorf("cannot list the nodes: %w", err)
		}
		if node, err := a.nodes.Get(name); err == nil {
			facts.Node = node
		}
	}
	return facts, nil
}

func condition(verdict Verdict, reason string) certificatesv1.CertificateSigningRequestCondition {
	c := certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "K8smApproved", Message: reason,
	}
	if verdict == Deny {
		c.Type, c.Reason = certificatesv1.CertificateDenied, "K8smDenied"
	}
	return c
}
