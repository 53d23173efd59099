package controlplane

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	certutil "k8s.io/client-go/util/cert"
)

// aggregatedTrust is the ConfigMap in kube-system that says which CAs aggregated API servers trust. Each API server adds its own, and
// takes none away (https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/).
const aggregatedTrust = "extension-apiserver-authentication"

const (
	// formerCAsFor is how long after a step of a rotation this is looked at: another API server may add a former CA back until it has
	// read its files again.
	formerCAsFor   = time.Minute
	formerCAsEvery = 5 * time.Second
)

// dropFormerCAs removes that ConfigMap whenever it has a CA that is none of this control plane's any more; API servers make it anew. It
// returns after a while, or when ctx ends. The control plane that is last with the last step removes what the others have added back.
func (c Config) dropFormerCAs(ctx context.Context, kube kubernetes.Interface) {
	ctx, cancel := context.WithTimeout(ctx, formerCAsFor)
	defer cancel()
	tick := time.NewTicker(formerCAsEvery)
	defer tick.Stop()
	for {
		if err := c.dropFormerCA(ctx, kube); err != nil && ctx.Err() == nil {
			logrus.WithError(err).Warn("cannot remove former CAs from what aggregated API servers trust: trying again")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (c Config) dropFormerCA(ctx context.Context, kube kubernetes.Interface) error {
	maps := kube.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	trusted, err := maps.Get(ctx, aggregatedTrust, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	former := false
	for key, file := range map[string]string{"client-ca-file": c.StateDir.CA(), "requestheader-client-ca-file": c.StateDir.FrontProxyCA()} {
		has, err := hasOther(trusted.Data[key], file)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		former = former || has
	}
	if !former {
		return nil
	}
	err = maps.Delete(ctx, aggregatedTrust, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(trusted.UID))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // another control plane was faster
	}
	return err
}

// hasOther tells whether a text has a certificate that the file has not.
func hasOther(text, file string) (bool, error) {
	if text == "" {
		return false, nil
	}
	theirs, err := certutil.ParseCertsPEM([]byte(text))
	if err != nil {
		return false, err
	}
	read, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	ours, err := certutil.ParseCertsPEM(read)
	if err != nil {
		return false, err
	}
	known := map[string]bool{}
	for _, ca := range ours {
		known[string(ca.Raw)] = true
	}
	for _, ca := range theirs {
		if !known[string(ca.Raw)] {
			return true, nil
		}
	}
	return false, nil
}
