package api

import (
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Ids that Mesos assigns or compares. They are opaque: compare them for equality only.
type (
	// AgentID identifies a Mesos agent for as long as its checkpointed state lives.
	AgentID string
	// OfferID identifies one offer. Mesos never reuses it.
	OfferID string
	// FrameworkID identifies this framework across restarts and failovers of its schedulers.
	FrameworkID string
	// ExecutorID identifies an executor on one agent; the same value on two agents means two executors.
	ExecutorID string
)

// PodKey names a pod in the API server. Unlike a UID it may be reused by a later pod.
type PodKey struct{ Namespace, Name string }

// String returns "namespace/name".
func (k PodKey) String() string { return k.Namespace + "/" + k.Name }

// TaskID identifies one attempt to run one pod: "<pod UID>.<attempt>". Mesos refuses a reused task id
// (https://mesos.apache.org/documentation/latest/app-framework-development-guide/), so each launch of a pod increments the attempt.
type TaskID string

// NewTaskID returns the id of the given attempt to run the pod with this UID. Attempts count from 1.
func NewTaskID(pod types.UID, attempt int) TaskID {
	return TaskID(string(pod) + "." + strconv.Itoa(attempt))
}

// Parse splits the id. It returns an error for a task that is not ours.
func (t TaskID) Parse() (pod types.UID, attempt int, err error) {
	dot := strings.LastIndexByte(string(t), '.')
	if dot <= 0 {
		return "", 0, fmt.Errorf("task id %q is not of the form <pod UID>.<attempt>", string(t))
	}
	attempt, err = strconv.Atoi(string(t[dot+1:]))
	if err != nil || attempt < 1 {
		return "", 0, fmt.Errorf("task id %q does not end in an attempt counted from 1", string(t))
	}
	return types.UID(t[:dot]), attempt, nil
}

// warmPrefix is the prefix of ids of tasks without a pod. No UID begins with it.
const warmPrefix = "warm-"

// NewWarmTaskID names a task without a pod that keeps the agent's executor running. Tasks of an agent differ in their number, from 1
// up.
func NewWarmTaskID(agent AgentID, number int64) TaskID {
	return TaskID(warmPrefix + string(agent) + "." + strconv.FormatInt(number, 10))
}

// Warm returns the agent of a task that NewWarmTaskID named; ok is false for any other task.
func (t TaskID) Warm() (agent AgentID, ok bool) {
	name, attempt, err := t.Parse()
	id, warm := strings.CutPrefix(string(name), warmPrefix)
	return AgentID(id), err == nil && warm && id != "" && attempt > 0
}

// ProviderID returns the spec.providerID of the agent's node.
func ProviderID(agent AgentID) string { return "mesos://" + string(agent) }

// AgentOfProviderID is the inverse of ProviderID; ok is false for a node that is not ours.
func AgentOfProviderID(providerID string) (agent AgentID, ok bool) {
	id, ok := strings.CutPrefix(providerID, "mesos://")
	return AgentID(id), ok && id != ""
}

// NodeName returns the Kubernetes node name for an agent's hostname: the hostname in lower case. It returns an error if that is not
// a valid name
// (https://kubernetes.io/docs/concepts/overview/working-with-objects/names/).
func NodeName(hostname string) (string, error) {
	name := strings.ToLower(hostname)
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return "", fmt.Errorf("agent hostname %q cannot be a node name: %s", hostname, problems[0])
	}
	return name, nil
}
