package differential

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"

	"github.com/k8sm/k8sm/scheduler/match"
)

// TestPodMayRunOnTheNodesWhereItsVolumesAre compares for each node whether the claims of a pod let it run there: claims
// that are bound, to volumes of a host or a zone; that wait for their first consumer, for volumes that exist or that are
// to be made; that others share, or must not share; and claims with which something is wrong.
//
// Ours knows neither how many volumes a driver attaches to a node (CSINode), nor how much of a storage there is where
// (CSIStorageCapacity), and leaves volumes without claims to the kubelet: clusters here have none of these. Nor do they have
// zone labels at the volumes of claims that are made for one pod: ours heeds them, but kube-scheduler (VolumeZone) forgets to.
func TestPodMayRunOnTheNodesWhereItsVolumesAre(t *testing.T) {
	answered := map[string]int{}
	untilSpent(t, func(t *testing.T, d dice) {
		c := stored(d)
		s := newStock(t, c)
		for i := range questions {
			pod := claiming(d, c, i)
			v := s.filter(t, pod)
			for _, node := range c.nodes {
				got := newCore(c, match.FCFS, []*corev1.Node{node}).ask(pod, 0)
				if want := v.has(node.Name); want != (got.node != "") && (!want || !c.allSelected(pod)) {
					t.Errorf("%s\nkube-scheduler: fits on %v, %s\nours, on %s: %q", yaml(pod), v.names(), v.why, node.Name, got.node)
					c.describeVolumes(t)
					return
				}
				answered[fmt.Sprintf("may %t", v.has(node.Name))]++
			}
		}
	})
	mustHave(t, answered, "may true", "may false")
}

// allSelected reports whether an earlier scheduler has chosen a node for all claims of the pod that wait for it. Ours then
// waits without a word, as kube-scheduler does in its binding.
func (c *cluster) allSelected(pod *corev1.Pod) bool {
	waiting := 0
	for _, claim := range c.claims {
		if !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
			return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim.Name || claim.Name == pod.Name+"-"+v.Name
		}) || metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted) {
			continue
		}
		if waiting++; !metav1.HasAnnotation(claim.ObjectMeta, volume.AnnSelectedNode) {
			return false
		}
	}
	return waiting > 0
}

// questions are asked of a cluster.
const questions = 30

// shared are the first claims, which all pods choose from.
const shared = 12

// asker is the name of the pod in a question, and ephemeral that of its volume whose claim is made for it.
func asker(i int) string { return fmt.Sprintf("waits%d", i) }

const ephemeral = "scratch"

// ofPod makes a claim one that was made for a pod, unless it only has the name of one.
func ofPod(d dice, claim *corev1.PersistentVolumeClaim, pod string) *corev1.PersistentVolumeClaim {
	if d.chance(70) {
		controller := true
		claim.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod, UID: types.UID(pod), Controller: &controller}}
	}
	return claim
}

// The storage classes: volumes of late and zoned are made for the first pod that needs one, those of local exist, and
// those of soon are made at once.
const late, zoned, local, soon = "late", "zoned", "local", "soon"

func class(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

// stored makes up a cluster with volumes and claims.
func stored(d dice) *cluster {
	c := &cluster{namespaces: []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "s1"}}}}
	c.classes = []*storagev1.StorageClass{
		class(late, "csi.example.com", storagev1.VolumeBindingWaitForFirstConsumer),
		class(zoned, "csi.example.com", storagev1.VolumeBindingWaitForFirstConsumer),
		class(local, volume.NotSupportedProvisioner, storagev1.VolumeBindingWaitForFirstConsumer),
		class(soon, "csi.example.com", storagev1.VolumeBindingImmediate),
	}
	c.classes[1].AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{
		{Key: corev1.LabelTopologyZone, Values: []string{"z1", "z3"}},
	}}}
	for i := range 2 + d.IntN(3) {
		c.nodes = append(c.nodes, bare(i, pick(d, "", "z1", "z1", "z2"), 64_000, 256<<10, 110))
	}
	for i := range shared {
		c.claims = append(c.claims, claim(d, c, fmt.Sprintf("c%d", i)))
	}
	for i := range questions {
		if d.chance(15) {
			c.claims = append(c.claims, ofPod(d, claim(d, c, asker(i)+"-"+ephemeral), asker(i)))
		}
	}
	for i := range 8 {
		c.volumes = append(c.volumes, persistent(d, c, fmt.Sprintf("v%d", i)))
	}
	for _, claim := range c.claims { // some are bound
		if d.chance(45) {
			c.bind(d, claim)
		}
	}
	for i := range d.IntN(5) {
		pod := plain(fmt.Sprintf("p%d", i), "s1", 100, 64)
		claims(pod, pick(d, c.claims[:shared]...).Name)
		c.put(pod, pick(d, c.nodes...).Name)
	}
	return c
}

func persistent(d dice, c *cluster, name string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{}},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: pick(d, late, local, local, soon, ""),
			Capacity:         corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(pick(d, "1Gi", "5Gi", "10Gi"))},
			AccessModes:      modes(d),
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi.example.com", VolumeHandle: name},
			},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	in := func(key string, values ...string) {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
			{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}}},
		}}}
	}
	switch d.IntN(5) {
	case 0:
		in(corev1.LabelHostname, pick(d, c.nodes...).Name)
	case 1:
		in(corev1.LabelTopologyZone, pick(d, "z1", "z2"))
	case 2:
		v.Labels[pick(d, corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaZone)] = pick(d, "z1", "z2", "z1__z2")
	}
	switch other := pick(d, c.claims...); {
	case d.chance(10): // its owner keeps it for a claim
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: other.Namespace, Name: other.Name}
	case d.chance(10): // its claim is gone, or there is another one of the same name
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: other.Namespace, Name: other.Name, UID: "gone"}
		v.Status.Phase = corev1.VolumeReleased
	}
	return v
}

func modes(d dice) []corev1.PersistentVolumeAccessMode {
	return []corev1.PersistentVolumeAccessMode{pick(d, corev1.ReadWriteOnce, corev1.ReadWriteOnce, corev1.ReadWriteMany, corev1.ReadWriteOncePod)}
}

func claim(d dice, c *cluster, name string) *corev1.PersistentVolumeClaim {
	class := pick(d, late, zoned, local, local, soon, "missing")
	made := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "s1", Name: name, UID: types.UID("uid-" + name), Annotations: map[string]string{}},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: modes(d),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceStorage: resource.MustParse(pick(d, "1Gi", "2Gi", "8Gi")),
			}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	switch {
	case d.chance(15):
		made.Annotations[volume.AnnSelectedNode] = pick(d, c.nodes...).Name
	case d.chance(5):
		made.Status.Phase = corev1.ClaimLost
	case d.chance(5):
		now := metav1.NewTime(epoch)
		made.DeletionTimestamp, made.Finalizers = &now, []string{"kubernetes.io/pvc-protection"}
	}
	return made
}

// bind binds the claim to a volume: mostly to one of its own, which is gone now and then, or not bound all the way.
func (c *cluster) bind(d dice, claim *corev1.PersistentVolumeClaim) {
	v := persistent(d, c, "for-"+claim.Name)
	v.Spec.StorageClassName, v.Spec.AccessModes = *claim.Spec.StorageClassName, claim.Spec.AccessModes
	v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID}
	v.Status.Phase = corev1.VolumeBound
	if strings.HasSuffix(claim.Name, ephemeral) {
		clear(v.Labels)
	}
	claim.Spec.VolumeName = v.Name
	if !d.chance(10) {
		claim.Annotations[volume.AnnBindCompleted] = "yes"
		if claim.Status.Phase == corev1.ClaimPending {
			claim.Status.Phase = corev1.ClaimBound
		}
	}
	if !d.chance(10) {
		c.volumes = append(c.volumes, v)
	}
}

// claims gives the pod volumes of these claims.
func claims(pod *corev1.Pod, names ...string) {
	for _, name := range names {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "of-" + name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}})
	}
}

// claiming returns a pod that waits and has up to three claims, one of which may not exist.
func claiming(d dice, c *cluster, i int) *corev1.Pod {
	pod := plain(asker(i), "s1", 100, 64)
	if slices.ContainsFunc(c.claims, func(claim *corev1.PersistentVolumeClaim) bool { return claim.Name == pod.Name+"-"+ephemeral }) || d.chance(2) {
		pod.Spec.Volumes = []corev1.Volume{{Name: ephemeral, VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
		return pod
	}
	var names []string
	for range 1 + d.IntN(3) {
		if name := pick(d, c.claims[:shared]...).Name; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if d.chance(3) {
		names = append(names, "nobodys")
	}
	claims(pod, names...)
	return pod
}

// describeVolumes logs the cluster and its volumes.
func (c *cluster) describeVolumes(t *testing.T) {
	t.Helper()
	for _, node := range c.nodes {
		t.Logf("node %s: labels %v", node.Name, node.Labels)
	}
	for _, pod := range c.pods {
		t.Logf("pod %s on %s: %s", pod.Name, pod.Spec.NodeName, yaml(pod.Spec.Volumes))
	}
	for _, v := range c.volumes {
		t.Logf("volume %s", yaml(v))
	}
	for _, claim := range c.claims {
		t.Logf("claim %s", yaml(claim))
	}
}
