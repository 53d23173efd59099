package scheduler

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"

	"github.com/k8sm/k8sm/api"
)

// storageEvent plays the lines of a script that are about volumes.
func (p *player) storageEvent(name, object string, options map[string]string) Event {
	switch name {
	case "class":
		mode := storagev1.VolumeBindingImmediate
		if options["binding"] == "late" {
			mode = storagev1.VolumeBindingWaitForFirstConsumer
		}
		class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: object}, VolumeBindingMode: &mode, Provisioner: options["provisioner"]}
		if zone := options["zone"]; zone != "" {
			class.AllowedTopologies = []v1.TopologySelectorTerm{{MatchLabelExpressions: []v1.TopologySelectorLabelRequirement{
				{Key: v1.LabelTopologyZone, Values: []string{zone}},
			}}}
		}
		return ClassSeen{Class: class}
	case "class-gone":
		return ClassGone{Name: object}
	case "volume":
		return VolumeSeen{Volume: testVolume(object, options)}
	case "volume-gone":
		return VolumeGone{Name: object}
	case "claim":
		return ClaimSeen{Claim: p.testClaim(object, options)}
	case "claim-gone":
		return ClaimGone{Key: api.PodKey{Namespace: "default", Name: object}}
	}
	return ClaimsPrepared{Action: p.claims[types.UID(object)], OK: options["failed"] == ""}
}

// testVolume returns a volume of 1Gi, or as its options say: on one host, of a zone by label, for a claim.
func testVolume(name string, options map[string]string) *v1.PersistentVolume {
	size := "1Gi"
	if options["size"] != "" {
		size = options["size"]
	}
	pv := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName: options["class"], Capacity: v1.ResourceList{v1.ResourceStorage: resource.MustParse(size)},
			AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce, v1.ReadWriteOncePod},
		},
		Status: v1.PersistentVolumeStatus{Phase: v1.VolumeAvailable},
	}
	if host := options["host"]; host != "" {
		pv.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
			MatchExpressions: []v1.NodeSelectorRequirement{
				{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{host}},
			},
		}}}}
	}
	if zone := options["zone"]; zone != "" {
		pv.Labels[v1.LabelTopologyZone] = zone
	}
	if claim := options["for"]; claim != "" {
		pv.Spec.ClaimRef = &v1.ObjectReference{Namespace: "default", Name: claim, UID: types.UID(claim)}
		pv.Status.Phase = v1.VolumeBound
	}
	return pv
}

// testClaim returns a claim of 1Gi that is bound if a volume is given.
func (p *player) testClaim(name string, options map[string]string) *v1.PersistentVolumeClaim {
	class := options["class"]
	claim := &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Annotations: map[string]string{}},
		Spec: v1.PersistentVolumeClaimSpec{
			StorageClassName: &class, VolumeName: options["volume"], AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
			Resources: v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")}},
		},
		Status: v1.PersistentVolumeClaimStatus{Phase: v1.PersistentVolumeClaimPhase(options["phase"])},
	}
	if options["volume"] != "" {
		claim.Annotations[volume.AnnBindCompleted] = "yes"
	}
	if options["selected"] != "" {
		claim.Annotations[volume.AnnSelectedNode] = options["selected"]
	}
	if options["mode"] == "pod" {
		claim.Spec.AccessModes[0] = v1.ReadWriteOncePod
	}
	if options["deleting"] != "" {
		claim.DeletionTimestamp = &metav1.Time{Time: p.now}
	}
	return claim
}

func TestPreparedClaimsAreWrittenAsTheVolumeControllerExpects(t *testing.T) {
	p := &player{t: t, core: NewCore(testConfig()), prepared: map[api.AgentID]PrepareExecutor{}, claims: map[types.UID]PrepareClaims{}}
	var made PrepareClaims
	known := testVolume("pv1", map[string]string{"class": "late"})
	p.core.Step(p.now, VolumeSeen{Volume: known})
	for _, line := range []string{
		"synced", "subscribed", "node n1 a1", "executor a1 ok", "class late binding=late provisioner=x",
		"claim data class=late", "claim more class=late", "offer o1 a1 host=n1 cpus=4 mem=4096 executor=ours", "pod p1 claim=data,more",
	} {
		for _, act := range p.step(line) {
			if prepare, ok := act.(PrepareClaims); ok {
				made = prepare
			}
		}
	}
	if len(made.Volumes) != 1 || len(made.Claims) != 1 {
		t.Fatalf("got %s", made)
	}
	pv, claim := made.Volumes[0], made.Claims[0]
	if ref := pv.Spec.ClaimRef; ref.Name != "data" || ref.Namespace != "default" || ref.UID != "data" || pv.Annotations[volume.AnnBoundByController] == "" {
		t.Errorf("volume for %+v, annotations %v", ref, pv.Annotations)
	}
	if claim.Name != "more" || claim.Annotations[volume.AnnSelectedNode] != "n1" {
		t.Errorf("claim %s, annotations %v", claim.Name, claim.Annotations)
	}
	if known.Spec.ClaimRef != nil {
		t.Error("the object of the event was changed")
	}
}

// claimVolumes gives a script's pod volumes of these claims.
func claimVolumes(pod *v1.Pod, claims string) {
	for _, name := range strings.Split(claims, ",") {
		pod.Spec.Volumes = append(pod.Spec.Volumes, v1.Volume{Name: name, VolumeSource: v1.VolumeSource{
			PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}})
	}
}

func TestClaimsThatAreNotBoundInTimeLetThePodChooseAgain(t *testing.T) {
	p := &player{t: t, core: NewCore(testConfig()), prepared: map[api.AgentID]PrepareExecutor{}, claims: map[types.UID]PrepareClaims{}}
	prepared := 0
	for _, line := range []string{
		"synced", "subscribed", "node n1 a1", "executor a1 ok", "class late binding=late provisioner=x", "claim data class=late",
		"offer o1 a1 host=n1 cpus=4 mem=4096 executor=ours", "pod p1 claim=data", "prepared p1",
		"+9m59s", "offer o2 a1 host=n1 cpus=4 mem=4096 executor=ours", "+1s", "executor a1 ok", "+1s",
	} {
		for _, act := range p.step(line) {
			if _, ok := act.(PrepareClaims); ok {
				prepared++
			}
		}
		if line == "+9m59s" && (prepared != 1 || p.core.pods.byUID["p1"].ClaimsNode != "n1") {
			t.Errorf("before the time is over: prepared %d times, chosen is %q", prepared, p.core.pods.byUID["p1"].ClaimsNode)
		}
	}
	if p.core.pods.byUID["p1"].claimsAt != p.now {
		t.Errorf("chosen at %s, now it is %s", p.core.pods.byUID["p1"].claimsAt, p.now)
	}
}

func TestClaimOfAnEphemeralVolumeIsForItsOwnPodOnly(t *testing.T) {
	p := &player{t: t, core: NewCore(testConfig()), prepared: map[api.AgentID]PrepareExecutor{}, claims: map[types.UID]PrepareClaims{}}
	for _, line := range []string{
		"synced", "subscribed", "node n1 a1", "executor a1 ok", "offer o1 a1 host=n1 cpus=4 mem=4096 executor=ours", "volume pv1 for=web-data",
	} {
		p.step(line)
	}
	scratch := v1.Volume{Name: "data", VolumeSource: v1.VolumeSource{Ephemeral: &v1.EphemeralVolumeSource{}}}
	launched := func(uid types.UID) bool {
		obj := p.pod("web", nil)
		obj.UID, obj.Spec.Volumes = uid, []v1.Volume{scratch}
		acts := p.core.Step(p.now, PodSeen{Pod: obj})
		return len(acts) > 0 && strings.HasPrefix(acts[0].String(), "launch")
	}
	claim, yes := p.testClaim("web-data", map[string]string{"volume": "pv1"}), true
	claim.OwnerReferences = []metav1.OwnerReference{{UID: "second", Controller: &yes}}
	p.core.Step(p.now, ClaimSeen{Claim: claim})
	if launched("first") {
		t.Error("a pod of the same name got the claim")
	}
	p.core.Step(p.now, PodGone{UID: "first"})
	if !launched("second") {
		t.Error("the pod that the claim was made for does not get it")
	}
}
