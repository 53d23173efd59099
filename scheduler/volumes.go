package scheduler

import (
	"cmp"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"

	"github.com/k8sm/k8sm/api"
)

// claimsPatience is how long claims may take to be bound for the node that was chosen, before a node is chosen anew: what
// kube-scheduler allows (https://kubernetes.io/docs/reference/config-api/kube-scheduler-config.v1/#kubescheduler-config-k8s-io-v1-VolumeBindingArgs).
const claimsPatience = 10 * time.Minute

// storage is what is known of volumes and claims (https://kubernetes.io/docs/concepts/storage/persistent-volumes/).
type storage struct {
	volumes map[string]*assumed[v1.PersistentVolume]
	claims  map[api.PodKey]*assumed[v1.PersistentVolumeClaim]
	classes map[string]*storagev1.StorageClass
	users   map[api.PodKey]int                // how many pods with the claim stand somewhere
	byClass map[string][]*v1.PersistentVolume // nil if it has to be made anew
	version int
}

// assumed is an object as the API has it, and as an action makes it that is under way.
type assumed[T any] struct{ known, now *T }

func newStorage() storage {
	return storage{
		volumes: map[string]*assumed[v1.PersistentVolume]{}, claims: map[api.PodKey]*assumed[v1.PersistentVolumeClaim]{},
		classes: map[string]*storagev1.StorageClass{}, users: map[api.PodKey]int{},
	}
}

// changed forgets what was concluded from volumes and claims.
func (x *storage) changed() { x.version, x.byClass = x.version+1, nil }

// ofClass returns the volumes of a storage class, by name.
func (x *storage) ofClass(class string) []*v1.PersistentVolume {
	if x.byClass == nil {
		x.byClass = map[string][]*v1.PersistentVolume{}
		for _, pv := range x.volumes {
			of := volume.GetPersistentVolumeClass(pv.now)
			x.byClass[of] = append(x.byClass[of], pv.now)
		}
		for _, list := range x.byClass {
			slices.SortFunc(list, func(a, b *v1.PersistentVolume) int { return cmp.Compare(a.Name, b.Name) })
		}
	}
	return x.byClass[class]
}

// waits tells whether the claim is bound only when a pod has a node
// (https://kubernetes.io/docs/concepts/storage/storage-classes/#volume-binding-mode).
func (x *storage) waits(claim *v1.PersistentVolumeClaim) bool {
	class := x.classes[volume.GetPersistentVolumeClaimClass(claim)]
	return class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

func keyOfClaim(claim *v1.PersistentVolumeClaim) api.PodKey {
	return api.PodKey{Namespace: claim.Namespace, Name: claim.Name}
}

// claimsOf names the claims of a pod.
func claimsOf(pod *v1.Pod) []api.PodKey {
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

// stored is what a pod's claims say at the moment.
type stored struct {
	version int
	problem refused                     // whatever the node
	bound   []*v1.PersistentVolume      // that the pod's claims are bound to
	delayed []*v1.PersistentVolumeClaim // that are bound when the pod has a node; the smallest first
}

// look finds out what the claims of a pod say.
func (x *storage) look(w *wishes) stored {
	s := stored{version: x.version}
	for _, key := range w.claims {
		known := x.claims[key]
		if known == nil {
			s.problem = refused{reason: claimMissing, what: key.Name}
			return s
		}
		if s.problem = x.lookAt(w, known.now, &s); !s.problem.ok() {
			return s
		}
	}
	slices.SortStableFunc(s.delayed, func(a, b *v1.PersistentVolumeClaim) int {
		return requested(a).Cmp(*requested(b))
	})
	return s
}

// lookAt finds out what one claim says.
func (x *storage) lookAt(w *wishes, claim *v1.PersistentVolumeClaim, s *stored) refused {
	switch {
	case claim.DeletionTimestamp != nil:
		return refused{reason: claimGoing, what: claim.Name}
	case claim.Status.Phase == v1.ClaimLost:
		return refused{reason: claimLost, what: claim.Name}
	case foreign(w.obj, claim):
		return refused{reason: claimForeign, what: claim.Name}
	case slices.Contains(claim.Spec.AccessModes, v1.ReadWriteOncePod) && x.others(w, keyOfClaim(claim)) > 0:
		return refused{reason: claimTaken, what: claim.Name}
	case bound(claim):
		pv := x.volumes[claim.Spec.VolumeName]
		if pv == nil {
			return refused{reason: volumeMissing, what: claim.Spec.VolumeName}
		}
		s.bound = append(s.bound, pv.now)
	case claim.Spec.VolumeName == "" && x.waits(claim):
		s.delayed = append(s.delayed, claim)
	default:
		return refused{reason: claimUnbound, what: claim.Name}
	}
	return refused{}
}

func hasEphemeral(pod *v1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v v1.Volume) bool { return v.Ephemeral != nil })
}

// foreign tells whether the claim has the name of one that is made for a volume of the pod, but is not that one
// (https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#persistentvolumeclaim-naming).
func foreign(pod *v1.Pod, claim *v1.PersistentVolumeClaim) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral != nil && ephemeral.VolumeClaimName(pod, v) == claim.Name && ephemeral.VolumeIsForPod(pod, claim) != nil {
			return true
		}
	}
	return false
}

// others counts the other pods with the claim that stand somewhere.
func (x *storage) others(w *wishes, claim api.PodKey) int {
	n := x.users[claim]
	if w.self != nil && w.self.place != nil && slices.Contains(w.self.claims, claim) {
		n--
	}
	return n
}

// checkClaims: is there nothing wrong with the claims, wherever the pod goes?
func (n *near) checkClaims() refused {
	if n.stored.version != n.storage.version {
		n.stored = n.storage.look(n.wishes)
	}
	return n.stored.problem
}

// checkVolumes: can the volumes of the pod be had on the node?
func (n *near) checkVolumes(node *v1.Node) refused {
	for _, pv := range n.stored.bound {
		if volume.CheckNodeAffinity(pv, node.Labels) != nil || !inZone(pv, node) {
			return refused{reason: volumeElsewhere, what: pv.Name}
		}
	}
	if len(n.stored.delayed) == 0 {
		return refused{}
	}
	_, r := n.plan(node)
	return r
}

// inZone tells whether the node is where the volume's labels say that the volume is
// (https://kubernetes.io/docs/reference/labels-annotations-taints/#topologykubernetesiozone). Nodes without such labels are
// those of clusters without zones.
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

// plan is how the claims of a pod shall get their volumes once its node is chosen.
type plan struct {
	bindings []binding
	provide  []*v1.PersistentVolumeClaim // whose volumes shall be made for the node
}

// binding is a volume for a claim.
type binding struct {
	volume *v1.PersistentVolume
	claim  *v1.PersistentVolumeClaim
}

// plan finds volumes for the claims that wait for a node, the smallest that fits for each, or else leaves it to their
// class's provisioner to make them.
func (n *near) plan(node *v1.Node) (plan, refused) {
	var made plan
	chosen := map[string]*v1.PersistentVolume{}
	for _, claim := range n.stored.delayed {
		selected, isSelected := claim.Annotations[volume.AnnSelectedNode]
		if isSelected && selected != node.Name {
			return plan{}, refused{reason: claimElsewhere, what: claim.Name}
		}
		class := volume.GetPersistentVolumeClaimClass(claim)
		if !isSelected {
			pv, err := volume.FindMatchingVolume(claim, n.storage.ofClass(class), node, chosen, true, true)
			if err == nil && pv != nil {
				chosen[pv.Name] = pv
				made.bindings = append(made.bindings, binding{pv, claim})
				continue
			}
		}
		if !n.storage.provides(class, node) {
			return plan{}, refused{reason: noVolume, what: claim.Name}
		}
		made.provide = append(made.provide, claim)
	}
	return made, refused{}
}

// provides tells whether volumes of the class can be made for the node
// (https://kubernetes.io/docs/concepts/storage/storage-classes/#allowed-topologies).
func (x *storage) provides(class string, node *v1.Node) bool {
	sc := x.classes[class]
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

// prepare has the claims of a pod bound, or volumes for them made, for the node of the view that was found for it; the
// pod stands on that node meanwhile. It tells whether there is anything to wait for.
func (c *Core) prepare(now time.Time, p *pod, v *view) bool {
	n := p.shape.near
	if n == nil || len(n.stored.delayed) == 0 {
		return false
	}
	made, r := n.plan(v.node)
	if !r.ok() {
		return false // the view has just been checked
	}
	act := PrepareClaims{Pod: refOf(p.obj), Node: v.node.Name}
	for _, b := range made.bindings {
		pv, dirty, err := volume.GetBindVolumeToClaim(b.volume, b.claim)
		if err == nil && dirty {
			act.Volumes = append(act.Volumes, pv)
			c.storage.volumes[pv.Name].now = pv
		}
	}
	for _, claim := range made.provide {
		if claim.Annotations[volume.AnnSelectedNode] == v.node.Name {
			continue // an earlier scheduler has asked for it
		}
		claim = claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnSelectedNode, v.node.Name)
		act.Claims = append(act.Claims, claim)
		c.storage.claims[keyOfClaim(claim)].now = claim
	}
	c.storage.changed()
	c.dequeue(p)
	p.pledge, p.pledged, p.wished = v.node.Name, now, stale
	p.waits = true
	c.queue.pledged[p.obj.UID] = p
	c.queue.waiting++
	c.stand(p)
	if len(act.Volumes)+len(act.Claims) > 0 {
		c.prepared = append(c.prepared, act)
	}
	return true
}

// claimsPrepared takes in what became of PrepareClaims. If it failed, somebody else has changed the objects.
func (c *Core) claimsPrepared(now time.Time, done ClaimsPrepared) {
	if done.OK {
		return
	}
	for _, pv := range done.Action.Volumes {
		if state := c.storage.volumes[pv.Name]; state != nil {
			state.now = state.known
		}
	}
	for _, claim := range done.Action.Claims {
		if state := c.storage.claims[keyOfClaim(claim)]; state != nil {
			state.now = state.known
		}
	}
	c.storage.changed()
	c.rouseClaims(func(*near) bool { return true })
	if p := c.pods[done.Action.Pod.UID]; p != nil {
		c.unpledge(now, p)
	}
}

// unpledge lets a pod choose again, which its claims keep from the node that was chosen.
func (c *Core) unpledge(now time.Time, p *pod) {
	if p.pledge == "" {
		return
	}
	c.dequeue(p)
	c.redeemed(p)
	p.backoff.fail(now)
	c.requeue(now, p)
}

// redeemed ends what claims meant to the pod's node: it has a task, or chooses again, or needs no node any more.
func (c *Core) redeemed(p *pod) {
	if p.pledge != "" {
		p.pledge, p.wished = "", stale
		c.stand(p)
	}
}

// redeem lets a pod have its turn whose claims are all bound now. It still stands on its node, so that nobody comes
// there meanwhile whom it would mind.
func (c *Core) redeem(now time.Time, p *pod) {
	for _, key := range claimsOf(p.obj) {
		if claim := c.storage.claims[key]; claim == nil || !bound(claim.known) {
			return
		}
	}
	delete(c.queue.pledged, p.obj.UID)
	c.requeue(now, p)
	c.look = true
}

// tickPledged lets those pods choose again that have waited for their claims for too long, or whose node is gone.
func (c *Core) tickPledged(now time.Time) {
	for _, p := range c.queue.pledged {
		if c.agentOfNode(p.pledge) == nil || now.Sub(p.pledged) >= claimsPatience {
			c.unpledge(now, p)
		}
	}
}

func (c *Core) volumeSeen(now time.Time, pv *v1.PersistentVolume) {
	state := c.storage.volumes[pv.Name]
	if state == nil {
		state = &assumed[v1.PersistentVolume]{}
		c.storage.volumes[pv.Name] = state
	}
	before := state.known
	if before != nil && pv.ResourceVersion != "" && before.ResourceVersion == pv.ResourceVersion {
		return
	}
	state.known, state.now = pv, pv
	c.storage.changed()
	claim := refOfVolume(pv)
	c.rouseClaims(func(n *near) bool {
		if claim.Name != "" {
			return slices.Contains(n.claims, claim)
		}
		return slices.ContainsFunc(n.stored.delayed, func(claim *v1.PersistentVolumeClaim) bool {
			return volume.GetPersistentVolumeClaimClass(claim) == volume.GetPersistentVolumeClass(pv)
		})
	})
	if before == nil {
		return
	}
	if lost := refOfVolume(before); lost.Name != "" && claim != lost { // the controller has taken the volume back
		c.claimReset(now, lost)
	}
}

// refOfVolume names the claim that the volume is for; it has no name if there is none.
func refOfVolume(pv *v1.PersistentVolume) api.PodKey {
	if pv.Spec.ClaimRef == nil {
		return api.PodKey{}
	}
	return api.PodKey{Namespace: pv.Spec.ClaimRef.Namespace, Name: pv.Spec.ClaimRef.Name}
}

func (c *Core) volumeGone(name string) {
	delete(c.storage.volumes, name)
	c.storage.changed()
}

func (c *Core) claimSeen(now time.Time, claim *v1.PersistentVolumeClaim) {
	key := keyOfClaim(claim)
	state := c.storage.claims[key]
	if state == nil {
		state = &assumed[v1.PersistentVolumeClaim]{}
		c.storage.claims[key] = state
	}
	before := state.known
	if before != nil && claim.ResourceVersion != "" && before.ResourceVersion == claim.ResourceVersion {
		return
	}
	state.known, state.now = claim, claim
	c.storage.changed()
	c.rouseClaims(func(n *near) bool { return slices.Contains(n.claims, key) })
	switch {
	case bound(claim):
		for _, p := range c.pledgedWith(key) {
			c.redeem(now, p)
		}
	case before != nil && before.Annotations[volume.AnnSelectedNode] != "" && claim.Annotations[volume.AnnSelectedNode] == "":
		c.claimReset(now, key) // the provisioner cannot make a volume for that node
	}
}

func (c *Core) claimGone(now time.Time, key api.PodKey) {
	delete(c.storage.claims, key)
	c.storage.changed()
	c.claimReset(now, key)
}

func (c *Core) classSeen(name string, class *storagev1.StorageClass) {
	if c.storage.classes[name] = class; class == nil {
		delete(c.storage.classes, name)
	}
	c.storage.changed()
	c.rouseClaims(func(*near) bool { return true })
}

// claimReset lets the pods choose again that wait for the claim.
func (c *Core) claimReset(now time.Time, key api.PodKey) {
	for _, p := range c.pledgedWith(key) {
		c.unpledge(now, p)
	}
}

// pledgedWith returns the pods that wait for their claims, this one among them.
func (c *Core) pledgedWith(key api.PodKey) []*pod {
	var pods []*pod
	for _, p := range c.queue.pledged {
		if slices.Contains(claimsOf(p.obj), key) {
			pods = append(pods, p)
		}
	}
	return pods
}

// rouseClaims gives the shapes another look to whose claims something has happened.
func (c *Core) rouseClaims(concerned func(*near) bool) {
	for s := range c.standing.watchers {
		if len(s.near.claims) > 0 && concerned(s.near) {
			c.told(s, true)
		}
	}
}

// use counts the claims of a pod that comes to stand somewhere (sign 1), or leaves (-1).
func (c *Core) use(st *stander, sign int) {
	if len(st.claims) == 0 {
		return
	}
	for _, key := range st.claims {
		if c.storage.users[key] += sign; c.storage.users[key] == 0 {
			delete(c.storage.users, key)
		}
	}
	c.storage.version++
	c.rouseClaims(func(n *near) bool {
		return slices.ContainsFunc(st.claims, func(key api.PodKey) bool { return slices.Contains(n.claims, key) })
	})
}

// claimsMessage tells why a pod waits that has a node for its claims already.
func (c *Core) claimsMessage(p *pod) string {
	for _, key := range claimsOf(p.obj) {
		if claim := c.storage.claims[key]; claim == nil || !bound(claim.known) {
			return "its claim " + key.Name + " is being bound for node " + p.pledge
		}
	}
	return "its claims are bound for node " + p.pledge
}
