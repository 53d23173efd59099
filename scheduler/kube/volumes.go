package kube

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
)

func (c *Cluster) volumeHandler() cache.ResourceEventHandler {
	return handlerOf(
		func(pv *v1.PersistentVolume) { c.tell(scheduler.VolumeSeen{Volume: pv}) },
		func(pv *v1.PersistentVolume) { c.tell(scheduler.VolumeGone{Name: pv.Name}) },
	)
}

func (c *Cluster) claimHandler() cache.ResourceEventHandler {
	return handlerOf(
		func(claim *v1.PersistentVolumeClaim) { c.tell(scheduler.ClaimSeen{Claim: claim}) },
		func(claim *v1.PersistentVolumeClaim) {
			c.tell(scheduler.ClaimGone{Key: api.PodKey{Namespace: claim.Namespace, Name: claim.Name}})
		},
	)
}

func (c *Cluster) classHandler() cache.ResourceEventHandler {
	return handlerOf(
		func(class *storagev1.StorageClass) { c.tell(scheduler.ClassSeen{Class: class}) },
		func(class *storagev1.StorageClass) { c.tell(scheduler.ClassGone{Name: class.Name}) },
	)
}

// prepareClaims writes the objects as the scheduler wants them, unless somebody has changed them since it saw them. The
// volume controller and the provisioners do the rest.
func (c *Cluster) prepareClaims(ctx context.Context, a scheduler.PrepareClaims) error {
	for _, pv := range a.Volumes {
		if _, err := c.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("cannot give volume %s to claim %s: %w", pv.Name, pv.Spec.ClaimRef.Name, err)
		}
	}
	for _, claim := range a.Claims {
		_, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("cannot tell the node %s to claim %s/%s: %w", a.Node, claim.Namespace, claim.Name, err)
		}
	}
	return nil
}
