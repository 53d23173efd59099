package localmesos

import (
	"fmt"
	"net/http"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/allocator"
	"github.com/mesos/mesos-go/api/v1/lib/scheduler"

	"github.com/k8sm/k8sm/api"
)

// callProblem returns what makes a scheduler call malformed, in Mesos's words, or "" (scheduler::call::validate in
// src/master/validation.cpp).
func callProblem(call *scheduler.Call, principal string) string {
	const prefix = "Failed to validate scheduler::Call: "
	missing := func(name string) string { return prefix + "Expecting '" + name + "' to be present" }
	if call.Type == scheduler.Call_UNKNOWN {
		return missing("type")
	}
	if call.Type == scheduler.Call_SUBSCRIBE {
		if call.Subscribe == nil || call.Subscribe.FrameworkInfo == nil {
			return missing("subscribe")
		}
		if call.GetFrameworkID().GetValue() != call.Subscribe.FrameworkInfo.GetID().GetValue() {
			return prefix + "'framework_id' differs from 'subscribe.framework_info.id'"
		}
		if claimed := call.Subscribe.FrameworkInfo.Principal; principal != "" && claimed != nil && *claimed != principal {
			return prefix + fmt.Sprintf("Authenticated principal '%s' does not match principal '%s' set in `FrameworkInfo`", principal, *claimed)
		}
		return ""
	}
	if call.FrameworkID == nil {
		return missing("framework_id")
	}
	if field, present := callField(call); !present {
		return missing(field)
	}
	if call.Type == scheduler.Call_ACKNOWLEDGE && !validUUID(call.Acknowledge.UUID) {
		return prefix + notUUID
	}
	if call.Type == scheduler.Call_UPDATE_FRAMEWORK && call.FrameworkID.Value != call.UpdateFramework.FrameworkInfo.GetID().GetValue() {
		return prefix + "'framework_id' differs from 'update_framework.framework_info.id'"
	}
	return ""
}

// notUUID is Mesos' message for bytes that are not a UUID.
const notUUID = "Not a valid UUID"

// validUUID reports whether Mesos accepts the bytes as a UUID: 16 bytes with an existing version (UUID::fromBytes in
// 3rdparty/stout/include/stout/uuid.hpp).
func validUUID(b []byte) bool {
	return len(b) == 16 && b[6]>>4 >= 1 && b[6]>>4 <= 5
}

// callField returns the field that a call's type requires, and whether the call has it.
func callField(call *scheduler.Call) (name string, present bool) {
	switch call.Type {
	case scheduler.Call_ACCEPT:
		return "accept", call.Accept != nil
	case scheduler.Call_DECLINE:
		return "decline", call.Decline != nil
	case scheduler.Call_KILL:
		return "kill", call.Kill != nil
	case scheduler.Call_SHUTDOWN:
		return "shutdown", call.Shutdown != nil
	case scheduler.Call_ACKNOWLEDGE:
		return "acknowledge", call.Acknowledge != nil
	case scheduler.Call_RECONCILE:
		return "reconcile", call.Reconcile != nil
	case scheduler.Call_MESSAGE:
		return "message", call.Message != nil
	case scheduler.Call_ACCEPT_INVERSE_OFFERS:
		return "accept_inverse_offers", call.AcceptInverseOffers != nil
	case scheduler.Call_DECLINE_INVERSE_OFFERS:
		return "decline_inverse_offers", call.DeclineInverseOffers != nil
	case scheduler.Call_UPDATE_FRAMEWORK:
		return "update_framework", call.UpdateFramework != nil
	}
	return "", true
}

// call performs one call that is not SUBSCRIBE.
func (m *master) call(e schedulerCall) {
	f := m.frameworks[api.FrameworkID(e.call.FrameworkID.Value)]
	if f == nil {
		m.do(refused("Framework cannot be found"))
		return
	}
	f.count("calls", e.call.Type)
	switch {
	case e.principal != "" && e.principal != f.info.GetPrincipal():
		m.do(refused(fmt.Sprintf("Authenticated principal '%s' does not match principal '%s' set in `FrameworkInfo`", e.principal, f.info.GetPrincipal())))
		return
	case e.stream == "":
		m.do(refused("All non-subscribe calls should include the 'Mesos-Stream-Id' header"))
		return
	case f.stream == "":
		m.do(answer{status: http.StatusForbidden, text: "Framework is not subscribed"})
		return
	case e.stream != f.stream:
		m.do(refused(fmt.Sprintf("The stream ID '%s' included in this request didn't match the stream ID currently associated with framework ID %s", e.stream, f.id)))
		return
	}
	if e.call.Type == scheduler.Call_UPDATE_FRAMEWORK {
		m.do(m.updateFramework(f, e.call.UpdateFramework))
		return
	}
	if !m.perform(f, e.call) {
		m.do(answer{status: http.StatusNotImplemented, text: notKnown(e.call.Type)})
		return
	}
	m.do(accepted)
}

// perform executes a call. It returns false for an unknown type.
func (m *master) perform(f *framework, call *scheduler.Call) bool {
	m.countCall(call)
	switch call.Type {
	case scheduler.Call_TEARDOWN:
		m.removeFramework(f)
	case scheduler.Call_ACCEPT:
		m.accept(f, call.Accept)
	case scheduler.Call_DECLINE:
		m.decline(f, call.Decline.OfferIDs, call.Decline.Filters)
	case scheduler.Call_ACCEPT_INVERSE_OFFERS:
		m.answerInverse(f, call.AcceptInverseOffers.InverseOfferIDs, call.AcceptInverseOffers.Filters, allocator.InverseOfferStatus_ACCEPT)
	case scheduler.Call_DECLINE_INVERSE_OFFERS:
		m.answerInverse(f, call.DeclineInverseOffers.InverseOfferIDs, call.DeclineInverseOffers.Filters, allocator.InverseOfferStatus_DECLINE)
	case scheduler.Call_REVIVE:
		m.revive(f, call.GetRevive().GetRoles())
	case scheduler.Call_SUPPRESS:
		m.suppress(f, call.GetSuppress().GetRoles())
	case scheduler.Call_KILL:
		m.kill(f, call.Kill)
	case scheduler.Call_ACKNOWLEDGE:
		m.acknowledge(f, call.Acknowledge)
	case scheduler.Call_RECONCILE:
		m.reconcile(f, call.Reconcile.Tasks)
	case scheduler.Call_SHUTDOWN:
		key := executorKey{f.id, api.ExecutorID(call.Shutdown.ExecutorID.Value)}
		m.toAgent(call.Shutdown.AgentID.Value, shutdownExecutor{key})
	case scheduler.Call_MESSAGE:
		key := executorKey{f.id, api.ExecutorID(call.Message.ExecutorID.Value)}
		sent := m.toAgent(call.Message.AgentID.Value, messageToExecutor{key, call.Message.Data})
		m.countOutcome("framework_to_executor_messages", sent)
	case scheduler.Call_REQUEST:
		// A hint. Mesos' own allocator ignores it too.
	default:
		return false
	}
	return true
}

// toAgent sends to a connected agent. Like Mesos, it drops the message otherwise, and returns false.
func (m *master) toAgent(id string, msg message) bool {
	a := m.agents[api.AgentID(id)]
	if a == nil || !a.connected {
		return false
	}
	m.do(sendAgent{a.id, msg})
	return true
}

// updateFramework follows Master::updateFramework in src/master/master.cpp.
func (m *master) updateFramework(f *framework, call *scheduler.Call_UpdateFramework) answer {
	info := call.FrameworkInfo
	if problem := m.frameworkProblem(info); problem != "" {
		return refused("Supplied FrameworkInfo is not valid: " + problem)
	}
	if problem := updateInfoProblem(f.info, info); problem != "" {
		return refused("FrameworkInfo update is not valid: " + problem)
	}
	if problem := suppressedProblem(info, call.SuppressedRoles); problem != "" {
		return refused("'UpdateFramework' call is not valid: " + problem)
	}
	changed := !info.Equal(&f.info)
	f.info = info
	if changed {
		m.publishFrameworkUpdated(f)
	}
	f.setSuppressed(call.SuppressedRoles)
	m.do(saveFrameworks{})
	for _, a := range m.agents {
		m.toAgent(string(a.id), updateFramework{info})
	}
	for _, a := range m.agents {
		m.allocateSoon(a)
	}
	return answer{status: http.StatusOK}
}

// accept follows https://mesos.apache.org/documentation/latest/scheduler-http-api/#accept: all offers must
// be of one agent. Resources that the operations leave are refused with the call's filters.
func (m *master) accept(f *framework, call *scheduler.Call_Accept) {
	offers, problem := m.acceptedOffers(f, call.OfferIDs)
	if problem != "" {
		for _, o := range offers {
			m.endOffer(o)
			m.free(o.agent, o.resources)
		}
		m.dropTasks(f, call, problem)
		return
	}
	f.counts["offers/accepted"] += float64(len(offers))
	agent := offers[0].agent
	var rest pool
	for _, o := range offers {
		m.endOffer(o)
		rest = rest.plus(o.resources)
	}
	l := launch{framework: f, agent: agent, rest: rest, role: offers[0].role}
	for i := range call.Operations {
		m.operate(&l, &call.Operations[i])
	}
	for _, o := range offers {
		mine := pool{}
		for _, x := range l.rest {
			if x.used == o.role {
				mine = append(mine, x)
			}
		}
		l.rest = l.rest.minus(mine)
		m.refuse(o, mine, call.Filters)
	}
	if m.machine(agent) != nil {
		m.allocateSoon(agent) // the launch may need an inverse offer
	}
}

func (m *master) acceptedOffers(f *framework, ids []mesos.OfferID) (offers []*offer, problem string) {
	if len(ids) == 0 {
		return nil, "No offers specified"
	}
	for _, id := range ids {
		o := f.offers[api.OfferID(id.Value)]
		switch {
		case o == nil:
			problem = fmt.Sprintf("Offer %s is no longer valid", id.Value)
		case len(offers) > 0 && offers[0].agent != o.agent:
			problem = fmt.Sprintf("Aggregated offers must belong to one single agent. Offer %s uses agent %s and agent %s", id.Value, o.agent.id, offers[0].agent.id)
			offers = append(offers, o)
		default:
			offers = append(offers, o)
		}
	}
	return offers, problem
}

func (m *master) dropTasks(f *framework, call *scheduler.Call_Accept, problem string) {
	for i := range call.Operations {
		for _, info := range tasksOf(&call.Operations[i]) {
			s := masterStatus(f.stateFor(mesos.TASK_DROPPED), mesos.REASON_INVALID_OFFERS, "Task launched with invalid offers: "+problem)
			s.TaskID, s.AgentID = info.TaskID, &mesos.AgentID{Value: info.AgentID.Value}
			m.countEnd(&s)
			m.tellStatus(f, s)
		}
	}
}

func tasksOf(op *mesos.Offer_Operation) []mesos.TaskInfo {
	if op.LaunchGroup != nil {
		return op.LaunchGroup.TaskGroup.Tasks
	}
	return op.GetLaunch().GetTaskInfos()
}

// operate executes one operation of an ACCEPT. Operations on reservations and volumes are not supported. They fail silently, like
// a failed operation without id in Mesos: later offers do not show the change.
func (m *master) operate(l *launch, op *mesos.Offer_Operation) {
	switch op.Type {
	case mesos.Offer_Operation_LAUNCH:
		for _, info := range tasksOf(op) {
			m.launch(l, info)
		}
	case mesos.Offer_Operation_LAUNCH_GROUP:
		for _, info := range tasksOf(op) {
			m.refuseTask(l.framework, info, "The local Mesos launches no task groups")
		}
	default:
		m.do(note{"operation is not known to the local Mesos", map[string]any{"framework": string(l.framework.id), "operation": op.Type.String()}})
	}
}
