package scheduler

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
)

// Event is something that happened. The objects in an event belong to everybody and are never changed.
type Event interface{ event() }

// Events from Kubernetes.
type (
	// PodSeen is a pod that is new or changed.
	PodSeen struct{ Pod *v1.Pod }
	// PodGone is a pod whose object is gone from the API.
	PodGone struct{ UID types.UID }
	// NodeSeen is a node that is new or changed.
	NodeSeen struct{ Node *v1.Node }
	// NodeGone is a node whose object is gone from the API.
	NodeGone struct{ Name string }
	// NamespaceSeen is a namespace that is new or changed.
	NamespaceSeen struct{ Namespace *v1.Namespace }
	// NamespaceGone is a namespace whose object is gone from the API.
	NamespaceGone struct{ Name string }
	// VolumeSeen is a PersistentVolume that is new or changed.
	VolumeSeen struct{ Volume *v1.PersistentVolume }
	// VolumeGone is a PersistentVolume whose object is gone from the API.
	VolumeGone struct{ Name string }
	// ClaimSeen is a PersistentVolumeClaim that is new or changed.
	ClaimSeen struct{ Claim *v1.PersistentVolumeClaim }
	// ClaimGone is a PersistentVolumeClaim whose object is gone from the API.
	ClaimGone struct{ Key api.PodKey }
	// ClassSeen is a StorageClass that is new or changed.
	ClassSeen struct{ Class *storagev1.StorageClass }
	// ClassGone is a StorageClass whose object is gone from the API.
	ClassGone struct{ Name string }
	// ClaimsPrepared answers PrepareClaims. If it is not OK, somebody else has changed one of the objects.
	ClaimsPrepared struct {
		Action PrepareClaims
		OK     bool
	}
	// BudgetSeen is a PodDisruptionBudget that is new or changed.
	BudgetSeen struct{ Budget *policyv1.PodDisruptionBudget }
	// BudgetGone is a PodDisruptionBudget whose object is gone from the API.
	BudgetGone struct{ UID types.UID }
	// Synced says that everything of the kinds above that exists has been seen. Until then nothing of Mesos is acted on.
	Synced struct{}
	// BindDone answers Bind and Annotate.
	BindDone struct {
		Task    api.TaskID
		Outcome BindOutcome
	}
	// ExecutorReady answers PrepareExecutor. Record is nil if that failed.
	ExecutorReady struct {
		Agent     api.AgentID
		Record    []byte
		Kept      bool // it is the record of an executor that runs, and may be another scheduler's
		Resources offers.Resources
	}
)

// EvictDone answers Evict.
type EvictDone struct {
	Agent   api.AgentID // that the pod has to leave
	Pod     types.UID
	Outcome EvictOutcome
}

// Events from Mesos (https://mesos.apache.org/documentation/latest/scheduler-http-api/#events).
type (
	// Subscribed is a new connection to the leading master.
	Subscribed struct{ Framework api.FrameworkID }
	// Disconnected is the end of that connection.
	Disconnected struct{}
	// Offered are new offers.
	Offered struct{ Offers []offers.Offer }
	// OfferRescinded is an offer that Mesos took back.
	OfferRescinded struct{ Offer api.OfferID }
	// InverseOffered are new inverse offers.
	InverseOffered struct{ Offers []InverseOffer }
	// InverseOfferRescinded is an inverse offer that Mesos took back, because the plan has changed.
	InverseOfferRescinded struct{ Offer api.OfferID }
	// TaskUpdated is a status update of a task.
	TaskUpdated struct{ Status TaskStatus }
	// AgentLost is an agent that the master removed.
	AgentLost struct{ Agent api.AgentID }
	// ExecutorExited is an executor of ours that ended.
	ExecutorExited struct {
		Agent    api.AgentID
		Executor api.ExecutorID
	}
)

// Tick is the passing of time; it comes about once a second.
type Tick struct{}

// Wake comes when the time has passed that Core.WakeAt named.
type Wake struct{}

// BindOutcome is what became of a binding.
type BindOutcome int

// Outcomes of a binding.
const (
	BindOK       BindOutcome = iota // the pod is bound and carries its task's id
	BindGone                        // the pod does not exist any more, or is being deleted
	BindConflict                    // the pod is bound already, elsewhere
	BindFailed                      // the API server could not be asked; to be tried again
)

// String returns the outcome's name.
func (o BindOutcome) String() string {
	return [...]string{"ok", "gone", "conflict", "failed"}[o]
}

// TaskStatus is a status update of a task; Reason and Message are as Mesos gave them.
type TaskStatus struct {
	Task    api.TaskID
	Agent   api.AgentID // empty if the master knows none
	State   TaskState
	Reason  string
	Message string
	UUID    []byte // empty if the update needs no acknowledgement
	// ByExecutor says that it is the executor's own word on the pod, and not what an agent or a master makes of the executor.
	ByExecutor bool
}

// String returns the update in short, for logs.
func (s TaskStatus) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", s.State, s.Reason, s.Message))
}

func (PodSeen) event()               {}
func (PodGone) event()               {}
func (NodeSeen) event()              {}
func (NodeGone) event()              {}
func (NamespaceSeen) event()         {}
func (NamespaceGone) event()         {}
func (VolumeSeen) event()            {}
func (VolumeGone) event()            {}
func (ClaimSeen) event()             {}
func (ClaimGone) event()             {}
func (ClassSeen) event()             {}
func (ClassGone) event()             {}
func (ClaimsPrepared) event()        {}
func (BudgetSeen) event()            {}
func (BudgetGone) event()            {}
func (Synced) event()                {}
func (BindDone) event()              {}
func (ExecutorReady) event()         {}
func (Subscribed) event()            {}
func (Disconnected) event()          {}
func (Offered) event()               {}
func (OfferRescinded) event()        {}
func (InverseOffered) event()        {}
func (InverseOfferRescinded) event() {}
func (EvictDone) event()             {}
func (TaskUpdated) event()           {}
func (AgentLost) event()             {}
func (ExecutorExited) event()        {}
func (Tick) event()                  {}
func (Wake) event()                  {}
