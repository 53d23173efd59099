package kube

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/scheduler"
)

// prepareClaims updates volumes and claims unless they have changed since the scheduler saw them. The volume controller and the
// provisioners do the rest.
func (c *Cluster) prepareClaims(ctx context.Context, a scheduler.PrepareClaims) error {
	for _, pv := range a.Volumes {
		if _, err := c.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("cannot give volume %s to claim %s: %w", pv.Name, pv.Spec.ClaimRef.Name, err)
		}
	}
	for _, claim := range a.Claims {
		_, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("cannot select node %s for claim %s/%s: %w", a.Node, claim.Namespace, claim.Name, err)
		}
	}
	return nil
}
