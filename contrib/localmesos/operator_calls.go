package localmesos

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	"github.com/mesos/mesos-go/api/v1/lib/maintenance"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/localmesos/wire"
)

// operatorCall is a call of the operator API that changes something.
type operatorCall struct{ call *pb.Call }

// changes reports whether a call of the operator API changes something here.
func changes(kind pb.Call_Type) bool {
	switch kind {
	case pb.Call_UPDATE_MAINTENANCE_SCHEDULE, pb.Call_START_MAINTENANCE, pb.Call_STOP_MAINTENANCE, pb.Call_DRAIN_AGENT,
		pb.Call_DEACTIVATE_AGENT, pb.Call_REACTIVATE_AGENT, pb.Call_MARK_AGENT_GONE, pb.Call_UPDATE_QUOTA, pb.Call_UPDATE_WEIGHTS, pb.Call_RESERVE_RESOURCES,
		pb.Call_UNRESERVE_RESOURCES, pb.Call_TEARDOWN:
		return true
	}
	return false
}

// operatorCallProblem returns what makes an operator's call malformed, in Mesos's words, or "" (master::call::validate in
// src/master/validation.cpp).
func operatorCallProblem(call *pb.Call) string {
	const prefix = "Failed to validate master::Call: "
	if call.Type == pb.Call_UNKNOWN {
		return prefix + "Expecting 'type' to be present"
	}
	for _, field := range []struct {
		kind    pb.Call_Type
		name    string
		present bool
	}{
		{pb.Call_GET_METRICS, "get_metrics", call.GetMetrics != nil},
		{pb.Call_UPDATE_MAINTENANCE_SCHEDULE, "update_maintenance_schedule", call.UpdateMaintenanceSchedule != nil},
		{pb.Call_START_MAINTENANCE, "start_maintenance", call.StartMaintenance != nil},
		{pb.Call_STOP_MAINTENANCE, "stop_maintenance", call.StopMaintenance != nil},
		{pb.Call_DRAIN_AGENT, "drain_agent", call.DrainAgent != nil},
		{pb.Call_DEACTIVATE_AGENT, "deactivate_agent", call.DeactivateAgent != nil},
		{pb.Call_REACTIVATE_AGENT, "reactivate_agent", call.ReactivateAgent != nil},
		{pb.Call_MARK_AGENT_GONE, "mark_agent_gone", call.MarkAgentGone != nil},
		{pb.Call_UPDATE_QUOTA, "update_quota", call.UpdateQuota != nil},
		{pb.Call_UPDATE_WEIGHTS, "update_weights", call.UpdateWeights != nil},
		{pb.Call_RESERVE_RESOURCES, "reserve_resources", call.ReserveResources != nil},
		{pb.Call_UNRESERVE_RESOURCES, "unreserve_resources", call.UnreserveResources != nil},
		{pb.Call_TEARDOWN, "teardown", call.Teardown != nil},
	} {
		if call.Type == field.kind && !field.present {
			return prefix + "Expecting '" + field.name + "' to be present"
		}
	}
	if d := call.GetDrainAgent().GetMaxGracePeriod(); d != nil && (d.Seconds < 0 || d.Nanos < 0) {
		return prefix + "Expecting 'drain_agent.max_grace_period' to be non-negative"
	}
	return ""
}

// change carries an operator's call out.
func (m *master) change(call *pb.Call) answer {
	switch call.Type {
	case pb.Call_UPDATE_MAINTENANCE_SCHEDULE:
		return m.updateSchedule(call.UpdateMaintenanceSchedule.Schedule)
	case pb.Call_START_MAINTENANCE:
		return m.startMaintenance(call.StartMaintenance.Machines)
	case pb.Call_STOP_MAINTENANCE:
		return m.stopMaintenance(call.StopMaintenance.Machines)
	case pb.Call_DRAIN_AGENT:
		return m.drainAgent(call.DrainAgent)
	case pb.Call_DEACTIVATE_AGENT:
		return m.deactivateAgent(api.AgentID(call.DeactivateAgent.AgentID.Value))
	case pb.Call_REACTIVATE_AGENT:
		return m.reactivateAgent(api.AgentID(call.ReactivateAgent.AgentID.Value))
	case pb.Call_MARK_AGENT_GONE:
		return m.markAgentGone(api.AgentID(call.MarkAgentGone.AgentID.Value))
	case pb.Call_UPDATE_QUOTA:
		return m.updateQuota(call.UpdateQuota)
	case pb.Call_UPDATE_WEIGHTS:
		return m.updateWeights(call.UpdateWeights.WeightInfos)
	case pb.Call_RESERVE_RESOURCES:
		return m.reserve(call.ReserveResources.AgentID, call.ReserveResources.Resources, false)
	case pb.Call_UNRESERVE_RESOURCES:
		return m.reserve(call.UnreserveResources.AgentID, call.UnreserveResources.Resources, true)
	case pb.Call_TEARDOWN:
		return m.teardown(api.FrameworkID(call.Teardown.FrameworkID.Value))
	}
	return answer{status: http.StatusNotImplemented, text: notKnown(call.Type)}
}

// teardown ends a framework, whether a scheduler is connected or not (Master::Http::_teardown in src/master/http.cpp).
func (m *master) teardown(id api.FrameworkID) answer {
	f := m.frameworks[id]
	if f == nil {
		return refused("No framework found with specified ID")
	}
	m.removeFramework(f)
	return answer{status: http.StatusOK}
}

// postTeardown reads the form of the endpoint that there was before the operator API (Master::Http::teardown in src/master/http.cpp).
func (n *masterNode) postTeardown(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	form, err := url.ParseQuery(string(body))
	switch {
	case err != nil:
		http.Error(w, "Unable to decode query string: "+err.Error(), http.StatusBadRequest)
	case !form.Has("frameworkId"):
		http.Error(w, "Missing 'frameworkId' query parameter in the request body", http.StatusBadRequest)
	default:
		n.changeAndAnswer(w, &pb.Call{
			Type: pb.Call_TEARDOWN, Teardown: &pb.Call_Teardown{FrameworkID: mesos.FrameworkID{Value: form.Get("frameworkId")}},
		})
	}
}

// changeAndAnswer lets the master carry a call out and answers with what it says.
func (n *masterNode) changeAndAnswer(w http.ResponseWriter, call *pb.Call) {
	a := refused(operatorCallProblem(call))
	if a.text == "" {
		a = n.owner.ask(operatorCall{call})
	}
	if a.text != "" {
		http.Error(w, a.text, a.status)
		return
	}
	w.WriteHeader(a.status)
}

// addMaintenanceEndpoints adds what there was for maintenance before the operator API
// (https://mesos.apache.org/documentation/latest/endpoints/#master-endpoints).
func (n *masterNode) addMaintenanceEndpoints(mux *http.ServeMux) {
	status := n.view(func(m *master) any {
		seen := m.clusterStatus()
		return wire.Tree(&seen)
	})
	handle := func(r realm, method, path string, handler http.HandlerFunc) {
		for _, prefix := range []string{"", "/master"} {
			mux.Handle(method+" "+prefix+path, n.plan.auth.guard(r, handler))
		}
	}
	handle(masterReadonly, http.MethodGet, "/maintenance/status", status)
	handle(masterReadwrite, http.MethodGet, "/maintenance/schedule", n.view(func(m *master) any { return wire.Tree(&m.upkeep.schedule) }))
	handle(masterReadwrite, http.MethodPost, "/maintenance/schedule", n.postSchedule)
	handle(masterReadwrite, http.MethodPost, "/machine/down", func(w http.ResponseWriter, r *http.Request) {
		n.postMachines(w, r, func(ids []mesos.MachineID) *pb.Call {
			return &pb.Call{Type: pb.Call_START_MAINTENANCE, StartMaintenance: &pb.Call_StartMaintenance{Machines: ids}}
		})
	})
	handle(masterReadwrite, http.MethodPost, "/machine/up", func(w http.ResponseWriter, r *http.Request) {
		n.postMachines(w, r, func(ids []mesos.MachineID) *pb.Call {
			return &pb.Call{Type: pb.Call_STOP_MAINTENANCE, StopMaintenance: &pb.Call_StopMaintenance{Machines: ids}}
		})
	})
}

func (n *masterNode) postSchedule(w http.ResponseWriter, r *http.Request) {
	var schedule maintenance.Schedule
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = wire.UnmarshalJSON(body, &schedule)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	n.changeAndAnswer(w, &pb.Call{
		Type: pb.Call_UPDATE_MAINTENANCE_SCHEDULE, UpdateMaintenanceSchedule: &pb.Call_UpdateMaintenanceSchedule{Schedule: schedule},
	})
}

// postMachines reads a JSON array of machines, from which call makes the call.
func (n *masterNode) postMachines(w http.ResponseWriter, r *http.Request, call func([]mesos.MachineID) *pb.Call) {
	ids, err := readMachines(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	n.changeAndAnswer(w, call(ids))
}

func readMachines(r io.Reader) ([]mesos.MachineID, error) {
	var list []json.RawMessage
	if err := json.NewDecoder(r).Decode(&list); err != nil {
		return nil, fmt.Errorf("Failed to parse body into JSON array: %w", err) //nolint:staticcheck // as Mesos begins it
	}
	ids := make([]mesos.MachineID, len(list))
	for i, raw := range list {
		if err := wire.UnmarshalJSON(raw, &ids[i]); err != nil {
			return nil, err
		}
	}
	return ids, nil
}
