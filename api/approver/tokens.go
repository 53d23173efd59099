package approver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api"
)

// tokenRetry is how soon a token is deleted again after a failure.
const tokenRetry = 5 * time.Second

// endTokens deletes the bootstrap tokens of nodes whose minion has started, until ctx is done: such a node has its certificate. It
// compares what nodes say at different times, not clocks. factory has the nodes.
func endTokens(ctx context.Context, client kubernetes.Interface, factory informers.SharedInformerFactory) {
	tokens := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(metav1.NamespaceSystem),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = api.LabelNode }))
	secrets, nodes := tokens.Core().V1().Secrets(), factory.Core().V1().Nodes()
	again := make(chan struct{}, 1)
	look := func(any) {
		select {
		case again <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, obj any) { look(obj) }}
	_, secretsErr := secrets.Informer().AddEventHandler(handler)
	_, nodesErr := nodes.Informer().AddEventHandler(handler)
	if err := errors.Join(secretsErr, nodesErr); err != nil {
		logrus.WithError(err).Error("cannot watch bootstrap tokens: they end after an hour")
		return
	}
	tokens.Start(ctx.Done())
	defer tokens.Shutdown()
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-retry:
		}
		retry = nil
		if err := endUsed(ctx, client, secrets.Lister(), nodes.Lister()); err != nil && ctx.Err() == nil {
			logrus.WithError(err).Warn("cannot end a bootstrap token that was used; retrying")
			retry = time.After(tokenRetry)
		}
	}
}

// endUsed deletes the tokens that have done their work.
func endUsed(ctx context.Context, client kubernetes.Interface, secrets corelisters.SecretLister, nodes corelisters.NodeLister) error {
	all, err := secrets.List(labels.Everything())
	if err != nil {
		return err
	}
	var problems []error
	for _, token := range all {
		node, err := nodes.Get(token.Labels[api.LabelNode])
		if err != nil || !served(token, node) {
			continue
		}
		same := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(token.UID))}
		err = client.CoreV1().Secrets(token.Namespace).Delete(ctx, token.Name, same)
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			problems = append(problems, fmt.Errorf("secret %s: %w", token.Name, err))
		}
	}
	return errors.Join(problems...)
}

// served tells whether a minion of the node has started since the token was made. Tokens of schedulers of older versions do not say;
// they end by their expiration.
func served(token *corev1.Secret, node *corev1.Node) bool {
	before, known := token.Annotations[api.AnnotationMinionBefore]
	started := node.Annotations[api.AnnotationMinionStarted]
	return known && token.Type == corev1.SecretTypeBootstrapToken && started != "" && started != before
}
