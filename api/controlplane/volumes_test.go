package controlplane

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-helpers/storage/volume"

	"github.com/k8sm/k8sm/api/statedir"
)

// testLateClaim does what the scheduler does for a claim that waits for its first consumer, as the scheduler's user: the
// stock volume controller must do the rest.
func testLateClaim(t *testing.T, dir statedir.Dir, admin kubernetes.Interface) {
	late, class := storagev1.VolumeBindingWaitForFirstConsumer, "late"
	gibibyte := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	create := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := admin.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: class}, Provisioner: volume.NotSupportedProvisioner, VolumeBindingMode: &late,
	}, metav1.CreateOptions{})
	create(err)
	_, err = admin.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv1"},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: class, Capacity: gibibyte, AccessModes: modes,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/nowhere"}},
		},
	}, metav1.CreateOptions{})
	create(err)
	claim, err := admin.CoreV1().PersistentVolumeClaims("default").Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: modes, Resources: corev1.VolumeResourceRequirements{Requests: gibibyte},
		},
	}, metav1.CreateOptions{})
	create(err)

	config, err := clientcmd.BuildConfigFromFlags("", dir.SchedulerKubeconfig())
	create(err)
	scheduler := clientOf(t, config)
	eventually(t, func(ctx context.Context) string {
		pv, err := admin.CoreV1().PersistentVolumes().Get(ctx, "pv1", metav1.GetOptions{})
		if err != nil || pv.Status.Phase != corev1.VolumeAvailable {
			return "the volume is not available: " + problemOf(err)
		}
		pv, _, err = volume.GetBindVolumeToClaim(pv, claim)
		if err == nil {
			_, err = scheduler.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
		}
		return problemOf(err)
	})
	eventually(t, func(ctx context.Context) string {
		claim, err := admin.CoreV1().PersistentVolumeClaims("default").Get(ctx, "data", metav1.GetOptions{})
		if err != nil || claim.Spec.VolumeName != "pv1" || !metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted) {
			return "the claim is not bound: " + problemOf(err)
		}
		return ""
	})
}
