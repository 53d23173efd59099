package scheduler

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/skew"
	"github.com/k8sm/k8sm/offers"
)

// Event is something that happened. Its objects are shared and must not be changed.
type Event interface{ event() }

// Events from Kubernetes.
type (
	// PodSeen says that a pod is new or changed.
	PodSeen struct{ Pod *v1.Pod }
	// PodGone says that a pod was removed from the API.
	PodGone struct{ UID types.UID }
	// NodeSeen says that a node is new or changed.
	NodeSeen struct{ Node *v1.Node }
	// NodeGone says that a node was removed from the API.
	NodeGone struct{ Name string }
	// NamespaceSeen says that a namespace is new or changed.
	NamespaceSeen struct{ Namespace *v1.Namespace }
	// NamespaceGone says that a namespace was removed from the API.
	NamespaceGone struct{ Name string }
	// VolumeSeen says that a PersistentVolume is new or changed.
	VolumeSeen struct{ Volume *v1.PersistentVolume }
	// VolumeGone says that a PersistentVolume was removed from the API.
	VolumeGone struct{ Name string }
	// ClaimSeen says that a PersistentVolumeClaim is new or changed.
	ClaimSeen struct{ Claim *v1.PersistentVolumeClaim }
	// ClaimGone says that a PersistentVolumeClaim was removed from the API.
	ClaimGone struct{ Key api.PodKey }
	// ClassSeen says that a StorageClass is new or changed.
	ClassSeen struct{ Class *storagev1.StorageClass }
	// ClassGone says that a StorageClass was removed from the API.
	ClassGone struct{ Name string }
	// ClaimsPrepared answers PrepareClaims. OK is false if somebody else changed one of the objects.
	ClaimsPrepared struct {
		Action PrepareClaims
		OK     bool
	}
	// BudgetSeen says that a PodDisruptionBudget is new or changed.
	BudgetSeen struct{ Budget *policyv1.PodDisruptionBudget }
	// BudgetGone says that a PodDisruptionBudget was removed from the API.
	BudgetGone struct{ UID types.UID }
	// ServersSeen says which API servers the cluster has. The first one comes before Synced.
	ServersSeen struct{ Servers []skew.Server }
	// SettingsSeen says that the configuration of minions is new or changed.
	SettingsSeen struct{ Minions api.MinionConfig }
	// Synced says that all existing objects of the kinds above have been seen. The core connects to Mesos only then.
	Synced struct{}
	// BindDone answers Bind and Annotate.
	BindDone struct {
		Task    api.TaskID
		Outcome BindOutcome
	}
	// ExecutorReady answers PrepareExecutor. Record is nil if that failed, and Why says why.
	ExecutorReady struct {
		Agent     api.AgentID
		Record    []byte
		Why       string
		Kept      bool // it belongs to a running executor, which another scheduler may have started
		Resources offers.Resources
	}
)

// EvictDone answers Evict.
type EvictDone struct {
	Agent   api.AgentID // where the pod runs
	Pod     types.UID
	Outcome EvictOutcome
}

// Events from Mesos (https://mesos.apache.org/documentation/latest/scheduler-http-api/#events).
type (
	// Subscribed is a new connection to the leading master.
	Subscribed struct{ Framework api.FrameworkID }
	// Disconnected is the end of that connection.
	Disconnected struct{}
	// SubscribeFailed says that the scheduler could not connect to a master. It tries again.
	SubscribeFailed struct{ Why string }
	// Offered brings new offers.
	Offered struct{ Offers []offers.Offer }
	// OfferRescinded says that Mesos took an offer back.
	OfferRescinded struct{ Offer api.OfferID }
	// InverseOffered brings new inverse offers.
	InverseOffered struct{ Offers []InverseOffer }
	// InverseOfferRescinded says that Mesos took an inverse offer back, because the maintenance schedule changed.
	InverseOfferRescinded struct{ Offer api.OfferID }
	// TaskUpdated brings a status update of a task.
	TaskUpdated struct{ Status TaskStatus }
	// AgentLost says that the master removed an agent.
	AgentLost struct{ Agent api.AgentID }
	// ExecutorExited says that one of our executors ended.
	ExecutorExited struct {
		Agent    api.AgentID
		Executor api.ExecutorID
	}
)

// Tick comes about once a second.
type Tick struct{}

// Wake comes at the time that Core.WakeAt returned.
type Wake struct{}

// BindOutcome is the result of Bind or Annotate.
type BindOutcome int

// Outcomes of a binding.
const (
	BindOK       BindOutcome = iota // the pod is bound and carries its task's id
	BindGone                        // the pod does not exist any more, or is being deleted
	BindConflict                    // the pod is already bound to another node
	BindFailed                      // the API server did not answer; the core tries again
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
	// ByExecutor says that the executor sent the update itself; otherwise an agent or a master generated it.
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
func (ServersSeen) event()           {}
func (SettingsSeen) event()          {}
func (Synced) event()                {}
func (BindDone) event()              {}
func (ExecutorReady) event()         {}
func (Subscribed) event()            {}
func (Disconnected) event()          {}
func (SubscribeFailed) event()       {}
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
