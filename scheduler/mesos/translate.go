package mesos

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	mesossched "github.com/mesos/mesos-go/api/v1/lib/scheduler"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler/calls"
	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/offers"
	"github.com/k8sm/k8sm/scheduler"
)

// eventsOf translates an event from Mesos. It returns none for an event that the scheduler does not need.
func eventsOf(e *mesossched.Event) ([]scheduler.Event, error) {
	if hollow(e) {
		return nil, fmt.Errorf("an event %s says only that it is one", e.GetType())
	}
	switch e.GetType() {
	case mesossched.Event_OFFERS:
		came := scheduler.Offered{}
		for i := range e.GetOffers().GetOffers() {
			offer, err := offerOf(&e.Offers.Offers[i])
			if err != nil {
				return nil, err
			}
			came.Offers = append(came.Offers, offer)
		}
		return []scheduler.Event{came}, nil
	case mesossched.Event_RESCIND:
		return []scheduler.Event{scheduler.OfferRescinded{Offer: api.OfferID(e.GetRescind().OfferID.Value)}}, nil
	case mesossched.Event_INVERSE_OFFERS:
		return []scheduler.Event{inverseOf(e.GetInverseOffers())}, nil
	case mesossched.Event_RESCIND_INVERSE_OFFER:
		return []scheduler.Event{scheduler.InverseOfferRescinded{Offer: api.OfferID(e.GetRescindInverseOffer().InverseOfferID.Value)}}, nil
	case mesossched.Event_UPDATE:
		status, err := statusOf(&e.GetUpdate().Status)
		if err != nil {
			return nil, err
		}
		return []scheduler.Event{scheduler.TaskUpdated{Status: status}}, nil
	case mesossched.Event_FAILURE:
		return failureOf(e.GetFailure()), nil
	}
	return nil, nil
}

// hollow tells whether the event lacks the message that its type promises.
func hollow(e *mesossched.Event) bool {
	switch e.GetType() {
	case mesossched.Event_RESCIND:
		return e.Rescind == nil
	case mesossched.Event_RESCIND_INVERSE_OFFER:
		return e.RescindInverseOffer == nil
	case mesossched.Event_UPDATE:
		return e.Update == nil
	}
	return false
}

func inverseOf(came *mesossched.Event_InverseOffers) scheduler.InverseOffered {
	var inverse scheduler.InverseOffered
	for i := range came.GetInverseOffers() {
		o := &came.InverseOffers[i]
		inverse.Offers = append(inverse.Offers, scheduler.InverseOffer{
			ID: api.OfferID(o.OfferID.Value), Agent: api.AgentID(o.GetAgentID().GetValue()), Unavailable: unavailabilityOf(&o.Unavailability),
		})
	}
	return inverse
}

func unavailabilityOf(u *mesos.Unavailability) offers.Unavailability {
	window := offers.Unavailability{Start: time.Unix(0, u.Start.Nanoseconds).UTC()}
	if u.Duration != nil {
		window.End = window.Start.Add(time.Duration(u.Duration.Nanoseconds))
	}
	return window
}

func failureOf(f *mesossched.Event_Failure) []scheduler.Event {
	agent := api.AgentID(f.GetAgentID().GetValue())
	switch {
	case agent == "":
		return nil
	case f.ExecutorID == nil:
		return []scheduler.Event{scheduler.AgentLost{Agent: agent}}
	}
	return []scheduler.Event{scheduler.ExecutorExited{Agent: agent, Executor: api.ExecutorID(f.ExecutorID.Value)}}
}

func statusOf(s *mesos.TaskStatus) (scheduler.TaskStatus, error) {
	state, known := scheduler.ParseTaskState(s.GetState().String())
	if !known {
		return scheduler.TaskStatus{}, fmt.Errorf("task %s is in state %s, which this version of km does not know", s.TaskID.Value, s.GetState())
	}
	status := scheduler.TaskStatus{
		Task: api.TaskID(s.TaskID.Value), Agent: api.AgentID(s.GetAgentID().GetValue()),
		State: state, Message: s.GetMessage(), UUID: s.GetUUID(), ByExecutor: s.GetSource() == mesos.SOURCE_EXECUTOR,
	}
	if s.Reason != nil {
		status.Reason = s.Reason.String()
	}
	return status, nil
}

func offerOf(o *mesos.Offer) (offers.Offer, error) {
	offer := offers.Offer{
		ID: api.OfferID(o.ID.Value), Agent: api.AgentID(o.AgentID.Value), Hostname: o.Hostname,
		Role: o.GetAllocationInfo().GetRole(),
	}
	if u := o.GetURL(); u != nil {
		offer.IP, offer.Port = u.Address.GetIP(), int(u.Address.GetPort())
	}
	if domain := o.GetDomain().GetFaultDomain(); domain != nil {
		offer.Region, offer.Zone = domain.Region.Name, domain.Zone.Name
	}
	if o.Unavailability != nil {
		window := unavailabilityOf(o.Unavailability)
		offer.Unavailable = &window
	}
	for i := range o.Attributes {
		offer.Attributes = append(offer.Attributes, attributeOf(&o.Attributes[i]))
	}
	for _, id := range o.ExecutorIDs {
		offer.Executors = append(offer.Executors, api.ExecutorID(id.Value))
	}
	for i := range o.Resources {
		r, usable, err := resourceOf(&o.Resources[i])
		if err != nil {
			return offers.Offer{}, fmt.Errorf("cannot read offer %s: %w", offer.ID, err)
		}
		if usable {
			offer.Resources = append(offer.Resources, r)
		}
	}
	return offer, nil
}

func attributeOf(a *mesos.Attribute) offers.Attribute {
	attribute := offers.Attribute{Name: a.Name}
	switch a.Type {
	case mesos.SCALAR:
		attribute.Value = offers.MilliOf(a.GetScalar().GetValue()).String()
	case mesos.RANGES:
		var parts []string
		for _, r := range a.GetRanges().GetRange() {
			parts = append(parts, fmt.Sprintf("%d-%d", r.Begin, r.End))
		}
		attribute.Value = strings.Join(parts, ".")
	case mesos.SET:
		attribute.Value = strings.Join(a.GetSet().GetItem(), ".")
	default:
		attribute.Value = a.GetText().GetValue()
	}
	return attribute
}

// resourceOf translates a resource. Shared ones, those of a resource provider, and disks other than the agent's own
// (persistent volumes, mounts) are not usable by a pod that did not ask for them. Of what is revocable, only cpus are:
// other things cannot be taken back from a pod without ending it.
func resourceOf(r *mesos.Resource) (resource offers.Resource, usable bool, err error) {
	if r.Revocable != nil && r.Name != offers.CPUs || r.Shared != nil || r.ProviderID != nil || r.Disk != nil || r.GetType() == mesos.SET {
		return offers.Resource{}, false, nil
	}
	resource = offers.Resource{
		Name: r.Name, Role: r.GetAllocationInfo().GetRole(),
		Reserved: len(r.Reservations) > 0 || r.GetRole() != "*" && r.GetRole() != "",
		Scalar:   offers.MilliOf(r.GetScalar().GetValue()),
	}
	if r.Revocable != nil {
		resource.Name = offers.RevocableCPUs
	}
	for _, p := range r.GetRanges().GetRange() {
		resource.Ranges = append(resource.Ranges, offers.Range{Begin: p.Begin, End: p.End})
	}
	origin := *r
	origin.Scalar, origin.Ranges = nil, nil
	resource.Origin, err = origin.Marshal()
	return resource, true, err
}

// resourcesTo returns resources as Mesos offered them, with the amounts to take.
func resourcesTo(rs offers.Resources) ([]mesos.Resource, error) {
	out := make([]mesos.Resource, len(rs))
	for i, r := range rs {
		if err := out[i].Unmarshal(r.Origin); err != nil {
			return nil, fmt.Errorf("cannot encode resource %s: %w", r, err)
		}
		if out[i].GetType() == mesos.SCALAR {
			out[i].Scalar = &mesos.Value_Scalar{Value: r.Scalar.Float()}
			continue
		}
		out[i].Ranges = &mesos.Value_Ranges{}
		for _, p := range r.Ranges {
			out[i].Ranges.Range = append(out[i].Ranges.Range, mesos.Value_Range{Begin: p.Begin, End: p.End})
		}
	}
	return out, nil
}

// callOf translates an action.
func callOf(action scheduler.MesosAction) (*mesossched.Call, error) {
	switch a := action.(type) {
	case scheduler.Launch:
		return acceptOf(a)
	case scheduler.Decline:
		return calls.Decline(offerIDs(a.Offers)...).With(calls.RefuseSeconds(a.Refuse)), nil
	case scheduler.Revive:
		return calls.Revive(), nil
	case scheduler.AnswerInverse:
		answer := calls.DeclineInverseOffers
		if a.Accept {
			answer = calls.AcceptInverseOffers
		}
		return answer(offerIDs([]api.OfferID{a.Offer})...).With(calls.RefuseSeconds(a.Refuse)), nil
	case scheduler.Kill:
		return calls.Kill(string(a.Task), string(a.Agent)), nil
	case scheduler.ShutdownExecutor:
		return calls.Shutdown(string(a.Executor), string(a.Agent)), nil
	case scheduler.Acknowledge:
		return calls.Acknowledge(string(a.Agent), string(a.Task), a.UUID), nil
	case scheduler.Reconcile:
		tasks := map[string]string{}
		for _, t := range a.Tasks {
			tasks[string(t.Task)] = string(t.Agent)
		}
		return calls.Reconcile(calls.ReconcileTasks(tasks)), nil
	}
	return nil, fmt.Errorf("there is no Mesos call for %q", action)
}

func offerIDs(ids []api.OfferID) []mesos.OfferID {
	out := make([]mesos.OfferID, len(ids))
	for i, id := range ids {
		out[i].Value = string(id)
	}
	return out
}

func acceptOf(launch scheduler.Launch) (*mesossched.Call, error) {
	var executor mesos.ExecutorInfo
	if err := executor.Unmarshal(launch.Executor); err != nil {
		return nil, fmt.Errorf("cannot decode the executor's record: %w", err)
	}
	tasks := make([]mesos.TaskInfo, len(launch.Tasks))
	for i, t := range launch.Tasks {
		task, err := taskOf(t, launch.Agent)
		if err != nil {
			return nil, fmt.Errorf("cannot encode task %s: %w", t.ID, err)
		}
		task.Executor = &executor
		tasks[i] = task
	}
	operations := calls.OfferOperations{calls.OpLaunch(tasks...)}
	return calls.Accept(operations.WithOffers(offerIDs(launch.Offers)...)).With(calls.RefuseSeconds(0)), nil
}

func taskOf(t scheduler.NewTask, agent api.AgentID) (mesos.TaskInfo, error) {
	if t.Pod == nil {
		return warmTaskOf(t, agent)
	}
	data, err := podJSON(t.Pod)
	if err != nil {
		return mesos.TaskInfo{}, err
	}
	resources, err := resourcesTo(t.Resources)
	if err != nil {
		return mesos.TaskInfo{}, err
	}
	return mesos.TaskInfo{
		Name:      t.Name(),
		TaskID:    mesos.TaskID{Value: string(t.ID)},
		AgentID:   mesos.AgentID{Value: string(agent)},
		Resources: resources,
		Data:      data,
		Labels:    labelsOf(t.Pod.Labels),
		Discovery: discoveryOf(t),
		// Mesos refuses a task whose grace period is below 0 (validateKillPolicy in src/master/validation.cpp).
		KillPolicy: &mesos.KillPolicy{GracePeriod: &mesos.DurationInfo{Nanoseconds: api.GracePeriod(t.Pod).Nanoseconds()}},
	}, nil
}

// warmTaskOf returns a task without a pod. The executor needs only its id.
func warmTaskOf(t scheduler.NewTask, agent api.AgentID) (mesos.TaskInfo, error) {
	resources, err := resourcesTo(t.Resources)
	return mesos.TaskInfo{
		Name: t.Name(), TaskID: mesos.TaskID{Value: string(t.ID)}, AgentID: mesos.AgentID{Value: string(agent)}, Resources: resources,
	}, err
}

func podJSON(pod *v1.Pod) ([]byte, error) {
	pod = pod.DeepCopy()
	pod.APIVersion, pod.Kind = "v1", "Pod"
	pod.ManagedFields = nil
	return json.Marshal(pod)
}

func labelsOf(labels map[string]string) *mesos.Labels {
	out := &mesos.Labels{}
	for key, value := range labels {
		out.Labels = append(out.Labels, mesos.Label{Key: key, Value: &value})
	}
	slices.SortFunc(out.Labels, func(a, b mesos.Label) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// discoveryOf lists the pod's ports for Mesos-DNS and the like, by the node's ports where they are published
// (https://mesos.apache.org/documentation/latest/app-framework-development-guide/#service-discovery).
func discoveryOf(t scheduler.NewTask) *mesos.DiscoveryInfo {
	pod := t.Pod
	name := pod.Name + "." + pod.Namespace
	info := &mesos.DiscoveryInfo{Visibility: mesos.CLUSTER, Name: &name, Ports: &mesos.Ports{}}
	for _, container := range pod.Spec.Containers {
		for _, p := range container.Ports {
			portName, protocol := p.Name, strings.ToLower(string(p.Protocol))
			if portName == "" {
				portName = container.Name + "-" + strconv.Itoa(int(p.ContainerPort))
			}
			number := cmp.Or(p.HostPort, publishedAt(t.Ports, p), p.ContainerPort)
			info.Ports.Ports = append(info.Ports.Ports, mesos.Port{Number: uint32(number), Name: &portName, Protocol: &protocol})
		}
	}
	return info
}

// publishedAt returns the host port that was chosen for a container's port; 0 if none was.
func publishedAt(mappings []api.PortMapping, p v1.ContainerPort) int32 {
	protocol := cmp.Or(string(p.Protocol), string(v1.ProtocolTCP))
	for _, m := range mappings {
		if m.ContainerPort == p.ContainerPort && m.Protocol == protocol {
			return m.HostPort
		}
	}
	return 0
}
