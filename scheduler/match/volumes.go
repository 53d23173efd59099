package match

import (
	"cmp"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"

	"github.com/k8sm/k8sm/api"
)

// storage holds volumes and claims (https://kubernetes.io/docs/concepts/storage/persistent-volumes/).
type storage struct {
	volumes map[string]*assumed[v1.PersistentVolume]
	claims  map[api.PodKey]*assumed[v1.PersistentVolumeClaim]
	classes map[string]*storagev1.StorageClass
	users   map[api.PodKey]int                // how many pods on nodes have the claim
	byClass map[string][]*v1.PersistentVolume // nil if it is out of date
	version int
}

// assumed is an object as the API server last reported it (known), and with a write that is under way (now).
type assumed[T any] struct{ known, now *T }

func newStorage() storage {
	return storage{
		volumes: map[string]*assumed[v1.PersistentVolume]{}, claims: map[api.PodKey]*assumed[v1.PersistentVolumeClaim]{},
		classes: map[string]*storagev1.StorageClass{}, users: map[api.PodKey]int{},
	}
}

// changed drops everything that was computed from volumes and claims.
func (st *storage) changed() { st.version, st.byClass = st.version+1, nil }

// ofClass returns the volumes of a storage class, sorted by name.
func (st *storage) ofClass(class string) []*v1.PersistentVolume {
	if st.byClass == nil {
		st.byClass = map[string][]*v1.PersistentVolume{}
		for _, pv := range st.volumes {
			of := volume.GetPersistentVolumeClass(pv.now)
			st.byClass[of] = append(st.byClass[of], pv.now)
		}
		for _, list := range st.byClass {
			slices.SortFunc(list, func(a, b *v1.PersistentVolume) int { return cmp.Compare(a.Name, b.Name) })
		}
	}
	return st.byClass[class]
}

// bindsLate tells whether the claim is bound only after a node has been chosen for a pod
// (https://kubernetes.io/docs/concepts/storage/storage-classes/#volume-binding-mode).
func (st *storage) bindsLate(claim *v1.PersistentVolumeClaim) bool {
	class := st.classes[volume.GetPersistentVolumeClaimClass(claim)]
	return class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

func keyOfClaim(claim *v1.PersistentVolumeClaim) api.PodKey {
	return api.PodKey{Namespace: claim.Namespace, Name: claim.Name}
}

// ClaimsOf returns the keys of the claims of a pod.
func ClaimsOf(pod *v1.Pod) []api.PodKey {
	var keys []api.PodKey
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			keys = append(keys, api.PodKey{Namespace: pod.Namespace, Name: v.PersistentVolumeClaim.ClaimName})
		case v.Ephemeral != nil:
			keys = append(keys, api.PodKey{Namespace: pod.Namespace, Name: ephemeral.VolumeClaimName(pod, v)})
		}
	}
	return keys
}

func bound(claim *v1.PersistentVolumeClaim) bool {
	return claim.Spec.VolumeName != "" && metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted)
}

// claimState is the state of a pod's claims.
type claimState struct {
	version int                         // of the storage that it was read from
	problem refusal                     // the same for every node
	bound   []*v1.PersistentVolume      // volumes that claims are bound to
	delayed []*v1.PersistentVolumeClaim // claims that are bound after a node has been chosen; the smallest first
}

// readClaims reads the state of a pod's claims.
func (st *storage) readClaims(cs *constraints) claimState {
	s := claimState{version: st.version}
	for _, key := range cs.claims {
		known := st.claims[key]
		if known == nil {
			s.problem = refusal{reason: claimMissing, what: key.Name}
			return s
		}
		if s.problem = st.readClaim(cs, known.now, &s); !s.problem.ok() {
			return s
		}
	}
	slices.SortStableFunc(s.delayed, func(a, b *v1.PersistentVolumeClaim) int {
		return requested(a).Cmp(*requested(b))
	})
	return s
}

// readClaim adds the state of one claim to s. It returns a refusal if the claim keeps the pod off all nodes.
func (st *storage) readClaim(cs *constraints, claim *v1.PersistentVolumeClaim, s *claimState) refusal {
	switch {
	case claim.DeletionTimestamp != nil:
		return refusal{reason: claimDeleting, what: claim.Name}
	case claim.Status.Phase == v1.ClaimLost:
		return refusal{reason: claimLost, what: claim.Name}
	case madeForOther(cs.obj, claim):
		return refusal{reason: claimNotForPod, what: claim.Name}
	case slices.Contains(claim.Spec.AccessModes, v1.ReadWriteOncePod) && st.otherUsers(cs, keyOfClaim(claim)) > 0:
		return refusal{reason: claimInUse, what: claim.Name}
	case bound(claim):
		pv := st.volumes[claim.Spec.VolumeName]
		if pv == nil {
			return refusal{reason: volumeMissing, what: claim.Spec.VolumeName}
		}
		s.bound = append(s.bound, pv.now)
	case claim.Spec.VolumeName == "" && st.bindsLate(claim):
		s.delayed = append(s.delayed, claim)
	default:
		return refusal{reason: claimUnbound, what: claim.Name}
	}
	return refusal{}
}

func hasEphemeral(pod *v1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v v1.Volume) bool { return v.Ephemeral != nil })
}

// madeForOther tells whether the claim has the name of the claim for an ephemeral volume of the pod, but belongs to another owner
// (https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#persistentvolumeclaim-naming).
func madeForOther(pod *v1.Pod, claim *v1.PersistentVolumeClaim) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral != nil && ephemeral.VolumeClaimName(pod, v) == claim.Name && ephemeral.VolumeIsForPod(pod, claim) != nil {
			return true
		}
	}
	return false
}

// otherUsers counts the other pods on nodes with the claim.
func (st *storage) otherUsers(cs *constraints, claim api.PodKey) int {
	n := st.users[claim]
	if cs.self != nil && cs.self.node != nil && slices.Contains(cs.self.claims, claim) {
		n--
	}
	return n
}

// checkClaims checks the claims as far as that does not depend on the node.
func (tp *topology) checkClaims() refusal {
	if tp.claimState.version != tp.index.storage.version {
		tp.claimState = tp.index.storage.readClaims(tp.constraints)
	}
	return tp.claimState.problem
}

// checkVolumes checks that the node can get all volumes of the pod.
func (tp *topology) checkVolumes(node *v1.Node) refusal {
	for _, pv := range tp.claimState.bound {
		if volume.CheckNodeAffinity(pv, node.Labels) != nil || !inZone(pv, node) {
			return refusal{reason: volumeElsewhere, what: pv.Name}
		}
	}
	if len(tp.claimState.delayed) == 0 {
		return refusal{}
	}
	_, r := tp.plan(node)
	return r
}

// inZone tells whether the node is in the zone and region of the volume's labels
// (https://kubernetes.io/docs/reference/labels-annotations-taints/#topologykubernetesiozone). A node without such labels passes:
// its cluster has no zones.
func inZone(pv *v1.PersistentVolume, node *v1.Node) bool {
	labelled := false
	for _, keys := range zoneLabels {
		labelled = labelled || node.Labels[keys.stable] != "" || node.Labels[keys.beta] != ""
	}
	if !labelled {
		return true
	}
	for _, keys := range zoneLabels {
		have := cmp.Or(node.Labels[keys.stable], node.Labels[keys.beta])
		for _, key := range []string{keys.stable, keys.beta} {
			if zones, found := pv.Labels[key]; found && !slices.Contains(strings.Split(zones, "__"), have) {
				return false
			}
		}
	}
	return true
}

var zoneLabels = []struct{ stable, beta string }{
	{v1.LabelTopologyZone, v1.LabelFailureDomainBetaZone}, {v1.LabelTopologyRegion, v1.LabelFailureDomainBetaRegion},
}

// plan says how the claims of a pod get their volumes on a node.
type plan struct {
	bindings  []binding
	provision []*v1.PersistentVolumeClaim // claims for which the provisioner makes a volume
}

// binding binds a volume to a claim.
type binding struct {
	volume *v1.PersistentVolume
	claim  *v1.PersistentVolumeClaim
}

// plan finds the smallest matching volume for each delayed claim. A claim without one is left to the provisioner of its storage
// class.
func (tp *topology) plan(node *v1.Node) (plan, refusal) {
	var made plan
	chosen := map[string]*v1.PersistentVolume{}
	for _, claim := range tp.claimState.delayed {
		selected, isSelected := claim.Annotations[volume.AnnSelectedNode]
		if isSelected && selected != node.Name {
			return plan{}, refusal{reason: claimElsewhere, what: claim.Name}
		}
		class := volume.GetPersistentVolumeClaimClass(claim)
		if !isSelected {
			pv, err := volume.FindMatchingVolume(claim, tp.index.storage.ofClass(class), node, chosen, true, true)
			if err == nil && pv != nil {
				chosen[pv.Name] = pv
				made.bindings = append(made.bindings, binding{pv, claim})
				continue
			}
		}
		if !tp.index.storage.canProvision(class, node) {
			return plan{}, refusal{reason: noVolume, what: claim.Name}
		}
		made.provision = append(made.provision, claim)
	}
	return made, refusal{}
}

// canProvision tells whether the provisioner of the storage class can make volumes for the node
// (https://kubernetes.io/docs/concepts/storage/storage-classes/#allowed-topologies).
func (st *storage) canProvision(class string, node *v1.Node) bool {
	sc := st.classes[class]
	if sc == nil || sc.Provisioner == "" || sc.Provisioner == volume.NotSupportedProvisioner {
		return false
	}
	matches := func(term v1.TopologySelectorTerm) bool {
		return !slices.ContainsFunc(term.MatchLabelExpressions, func(r v1.TopologySelectorLabelRequirement) bool {
			value, found := node.Labels[r.Key]
			return !found || !slices.Contains(r.Values, value)
		})
	}
	return len(sc.AllowedTopologies) == 0 || slices.ContainsFunc(sc.AllowedTopologies, matches)
}

func requested(claim *v1.PersistentVolumeClaim) *resource.Quantity {
	return claim.Spec.Resources.Requests.Storage()
}

// Claims are the objects to write so that the claims of a pod are bound, or provisioned, for the node that was chosen for it
// (https://kubernetes.io/docs/concepts/storage/storage-classes/#volume-binding-mode).
type Claims struct {
	Volumes []*v1.PersistentVolume      // with references to their claims
	Claims  []*v1.PersistentVolumeClaim // annotated with the node
}

// PrepareClaims plans how the claims of a pod get volumes on the node of the view, and assumes from now on that the objects are
// written. Find must have returned the view. needed is false if the pod has no delayed claim.
func (x *Index) PrepareClaims(p *Pod, v *View) (c Claims, needed bool) {
	tp := p.class.topology
	if tp == nil || len(tp.claimState.delayed) == 0 {
		return Claims{}, false
	}
	made, r := tp.plan(v.obj)
	if !r.ok() {
		return Claims{}, false // cannot happen: the view has just been checked
	}
	for _, b := range made.bindings {
		pv, dirty, err := volume.GetBindVolumeToClaim(b.volume, b.claim)
		if err == nil && dirty {
			c.Volumes = append(c.Volumes, pv)
			x.storage.volumes[pv.Name].now = pv
		}
	}
	for _, claim := range made.provision {
		if claim.Annotations[volume.AnnSelectedNode] == v.obj.Name {
			continue // an earlier scheduler has written it
		}
		claim = claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnSelectedNode, v.obj.Name)
		c.Claims = append(c.Claims, claim)
		x.storage.claims[keyOfClaim(claim)].now = claim
	}
	x.storage.changed()
	return c, true
}

// ClaimsFailed undoes what PrepareClaims assumed, after a write has failed.
func (x *Index) ClaimsFailed(c Claims) {
	for _, pv := range c.Volumes {
		if state := x.storage.volumes[pv.Name]; state != nil {
			state.now = state.known
		}
	}
	for _, claim := range c.Claims {
		if state := x.storage.claims[keyOfClaim(claim)]; state != nil {
			state.now = state.known
		}
	}
	x.storage.changed()
	x.notifyClaimUsers(func(*topology) bool { return true })
}

// UnboundClaim returns the name of the first claim of the pod that is not bound yet; ok is false if all are bound.
func (x *Index) UnboundClaim(pod *v1.Pod) (name string, ok bool) {
	for _, key := range ClaimsOf(pod) {
		if claim := x.storage.claims[key]; claim == nil || !bound(claim.known) {
			return key.Name, true
		}
	}
	return "", false
}

// VolumeSeen adds or updates a volume. If the volume had a claim that it has no longer, because the controller has taken it back,
// VolumeSeen returns that claim.
func (x *Index) VolumeSeen(pv *v1.PersistentVolume) (lost api.PodKey, isLost bool) {
	state := x.storage.volumes[pv.Name]
	if state == nil {
		state = &assumed[v1.PersistentVolume]{}
		x.storage.volumes[pv.Name] = state
	}
	before := state.known
	if before != nil && pv.ResourceVersion != "" && before.ResourceVersion == pv.ResourceVersion {
		return api.PodKey{}, false
	}
	state.known, state.now = pv, pv
	x.storage.changed()
	claim := claimOfVolume(pv)
	x.notifyClaimUsers(func(tp *topology) bool {
		if claim.Name != "" {
			return slices.Contains(tp.claims, claim)
		}
		return slices.ContainsFunc(tp.claimState.delayed, func(claim *v1.PersistentVolumeClaim) bool {
			return volume.GetPersistentVolumeClaimClass(claim) == volume.GetPersistentVolumeClass(pv)
		})
	})
	if before == nil {
		return api.PodKey{}, false
	}
	lost = claimOfVolume(before)
	return lost, lost.Name != "" && claim != lost
}

// claimOfVolume returns the key of the claim that the volume is reserved for or bound to. The key is empty if there is none.
func claimOfVolume(pv *v1.PersistentVolume) api.PodKey {
	if pv.Spec.ClaimRef == nil {
		return api.PodKey{}
	}
	return api.PodKey{Namespace: pv.Spec.ClaimRef.Namespace, Name: pv.Spec.ClaimRef.Name}
}

// VolumeGone removes a volume.
func (x *Index) VolumeGone(name string) {
	delete(x.storage.volumes, name)
	x.storage.changed()
}

// ClaimSeen adds or updates a claim. It tells whether the claim is bound, or was reset because the provisioner cannot make a
// volume for the chosen node.
func (x *Index) ClaimSeen(claim *v1.PersistentVolumeClaim) (isBound, isReset bool) {
	key := keyOfClaim(claim)
	state := x.storage.claims[key]
	if state == nil {
		state = &assumed[v1.PersistentVolumeClaim]{}
		x.storage.claims[key] = state
	}
	before := state.known
	if before != nil && claim.ResourceVersion != "" && before.ResourceVersion == claim.ResourceVersion {
		return false, false
	}
	state.known, state.now = claim, claim
	x.storage.changed()
	x.notifyClaimUsers(func(tp *topology) bool { return slices.Contains(tp.claims, key) })
	if bound(claim) {
		return true, false
	}
	return false, before != nil && before.Annotations[volume.AnnSelectedNode] != "" && claim.Annotations[volume.AnnSelectedNode] == ""
}

// ClaimGone removes a claim.
func (x *Index) ClaimGone(key api.PodKey) {
	delete(x.storage.claims, key)
	x.storage.changed()
}

// StorageClassSeen adds or updates a StorageClass, or removes it if class is nil.
func (x *Index) StorageClassSeen(name string, class *storagev1.StorageClass) {
	if x.storage.classes[name] = class; class == nil {
		delete(x.storage.classes, name)
	}
	x.storage.changed()
	x.notifyClaimUsers(func(*topology) bool { return true })
}

// notifyClaimUsers makes the watched classes with claims search again for which affected returns true.
func (x *Index) notifyClaimUsers(affected func(*topology) bool) {
	for c := range x.classes.watchers {
		if len(c.topology.claims) > 0 && affected(c.topology) {
			x.notify(c, true)
		}
	}
}

// countClaims counts the claims of a pod that comes to a node (sign 1), or leaves it (-1).
func (x *Index) countClaims(o *occupant, sign int) {
	if len(o.claims) == 0 {
		return
	}
	for _, key := range o.claims {
		if x.storage.users[key] += sign; x.storage.users[key] == 0 {
			delete(x.storage.users, key)
		}
	}
	x.storage.version++
	x.notifyClaimUsers(func(tp *topology) bool {
		return slices.ContainsFunc(o.claims, func(key api.PodKey) bool { return slices.Contains(tp.claims, key) })
	})
}
