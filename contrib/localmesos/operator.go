package localmesos

import (
	"encoding/json"
	"fmt"
	"net/http"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	pb "github.com/mesos/mesos-go/api/v1/lib/master"

	"github.com/k8sm/k8sm/contrib/localmesos/wire"
)

// addOperatorAPI adds what people and tools read: the operator API
// (https://mesos.apache.org/documentation/latest/operator-http-api/) and the older endpoints
// (https://mesos.apache.org/documentation/latest/endpoints/).
func (n *masterNode) addOperatorAPI(mux *http.ServeMux) {
	mux.Handle("/api/v1", n.plan.auth.guard(masterReadwrite, http.HandlerFunc(n.serveOperator)))
	for path, view := range map[string]func(*master) any{
		"/state":  func(m *master) any { return merged(m.stateView(), map[string]any{"flags": n.flags()}) },
		"/slaves": (*master).slavesView, "/frameworks": (*master).frameworksView, "/tasks": (*master).tasksView,
	} {
		handler := n.plan.auth.guard(masterReadonly, n.view(view))
		mux.Handle(path, handler)
		mux.Handle("/master"+path, handler)
	}
	for _, path := range []string{"POST /teardown", "POST /master/teardown"} {
		mux.Handle(path, n.plan.auth.guard(masterReadwrite, http.HandlerFunc(n.postTeardown)))
	}
	n.addMaintenanceEndpoints(mux)
	mux.Handle("/metrics/snapshot", n.plan.auth.guard(masterReadonly, snapshotHandler(newSnapshotLimit(), n.metrics)))
	mux.HandleFunc("/health", healthy)
	mux.HandleFunc("/master/health", healthy)
	mux.HandleFunc("/redirect", n.redirect)
	mux.HandleFunc("/master/redirect", n.redirect)
	mux.HandleFunc("/version", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, version()) })
}

func healthy(http.ResponseWriter, *http.Request) {}

// redirect redirects to the leading master, which is always this one.
func (n *masterNode) redirect(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Location", "//"+n.server.listener.Addr().String())
	w.WriteHeader(http.StatusTemporaryRedirect)
}

// view serves what a function sees of the master.
func (n *masterNode) view(see func(*master) any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		var seen any
		if !n.owner.look(func() { seen = see(n.master) }) {
			http.Error(w, "the master has ended", http.StatusServiceUnavailable)
			return
		}
		writeJSON(w, seen)
	}
}

func writeJSON(w http.ResponseWriter, content any) {
	data, err := json.Marshal(content)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", wire.JSON.String())
	_, _ = w.Write(data) // a client that went away is no concern of ours
}

// serveOperator answers the calls of the operator API in the encoding that is accepted (Master::Http::api in src/master/http.cpp).
func (n *masterNode) serveOperator(w http.ResponseWriter, r *http.Request) {
	var call pb.Call
	codec, refusal := readOperatorCall(r, &call, func() string { return operatorCallProblem(&call) })
	switch {
	case refusal.status != 0:
		http.Error(w, refusal.text, refusal.status)
	case changes(call.Type):
		n.changeAndAnswer(w, &call)
	case call.Type == pb.Call_SUBSCRIBE:
		n.streams.hold(w, r, n.owner, holding{
			most: n.unread, codec: codec, encode: encodeEvent, subscribe: func(stream string) event { return operatorSubscribe{stream} },
		})
	case call.Type == pb.Call_GET_METRICS:
		found := n.metrics(r.Context(), timeoutOf(call.GetMetrics.Timeout))
		writeResponse(w, codec, &pb.Response{Type: pb.Response_GET_METRICS, GetMetrics: &pb.Response_GetMetrics{Metrics: found.messages()}})
	default:
		n.readAndAnswer(w, codec, &call)
	}
}

// readOperatorCall reads a call of the operator API of the master or an agent, and returns the encoding of the answer, or an HTTP
// status and the reason.
func readOperatorCall(r *http.Request, call wire.Message, problem func() string) (wire.Codec, answer) {
	if _, refusal := readCall(r, call); refusal.status != 0 {
		return 0, refusal
	}
	if text := problem(); text != "" {
		return 0, refused(text)
	}
	codec, ok := wire.Accepted(r.Header["Accept"])
	if !ok {
		return 0, answer{http.StatusNotAcceptable, "Expecting 'Accept' to allow 'application/x-protobuf' or 'application/json'"}
	}
	return codec, answer{}
}

// readAndAnswer answers a call that only reads.
func (n *masterNode) readAndAnswer(w http.ResponseWriter, codec wire.Codec, call *pb.Call) {
	response := &pb.Response{Type: pb.Response_Type(pb.Response_Type_value[call.Type.String()])}
	known := false
	if !n.owner.look(func() { known = n.respond(call.Type, response) }) {
		http.Error(w, "the master has ended", http.StatusServiceUnavailable)
		return
	}
	if !known {
		http.Error(w, notKnown(call.Type), http.StatusNotImplemented)
		return
	}
	if codec == wire.JSON {
		writeJSON(w, newerFields(wire.Tree(response)))
		return
	}
	writeResponse(w, codec, response)
}

func notKnown(call fmt.Stringer) string {
	return "The local Mesos does not know the call " + call.String()
}

func writeResponse(w http.ResponseWriter, codec wire.Codec, response wire.Message) {
	data, err := codec.Encode(response)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", codec.String())
	_, _ = w.Write(data) // a client that went away is no concern of ours
}

// newerFields adds fields that Mesos has and mesos-go's messages have not.
func newerFields(tree map[string]any) map[string]any {
	for _, section := range []string{"get_state", "subscribed"} {
		if inner, ok := tree[section].(map[string]any); ok {
			newerFields(inner)
		}
	}
	agents := list(tree, "get_agents", "agents")
	if added, ok := tree["agent_added"].(map[string]any); ok {
		if a, ok := added["agent"].(map[string]any); ok {
			agents = append(agents, a)
		}
	}
	for _, f := range list(tree, "get_frameworks", "frameworks") {
		f["offer_constraints"] = map[string]any{}
	}
	for _, a := range agents {
		if info, ok := a["agent_info"].(map[string]any); ok {
			info["checkpoint"] = true
		}
	}
	for section, names := range map[string][]string{
		"get_agents": {"agents", "recovered_agents"}, "get_frameworks": {"frameworks"}, "get_tasks": {"tasks"},
	} {
		answer, ok := tree[section].(map[string]any)
		for _, name := range names {
			if _, has := answer[name]; ok && !has {
				answer[name] = []any{}
			}
		}
	}
	return tree
}

func list(tree map[string]any, section, name string) []map[string]any {
	answer, _ := tree[section].(map[string]any)
	items, _ := answer[name].([]any)
	var out []map[string]any
	for _, item := range items {
		if object, ok := item.(map[string]any); ok {
			out = append(out, object)
		}
	}
	return out
}

// respond fills in the answer to a call; false means that it does not know the call.
func (n *masterNode) respond(call pb.Call_Type, r *pb.Response) bool {
	if call == pb.Call_GET_FLAGS {
		r.GetFlags = &pb.Response_GetFlags{Flags: flagMessages(n.flags())}
		return true
	}
	return n.master.respond(call, r)
}

func (m *master) respond(call pb.Call_Type, r *pb.Response) bool {
	switch call {
	case pb.Call_GET_HEALTH:
		r.GetHealth = &pb.Response_GetHealth{Healthy: true}
	case pb.Call_GET_VERSION:
		r.GetVersion = &pb.Response_GetVersion{VersionInfo: versionInfo()}
	case pb.Call_GET_AGENTS:
		r.GetAgents = m.getAgents()
	case pb.Call_GET_FRAMEWORKS:
		r.GetFrameworks = m.getFrameworks()
	case pb.Call_GET_EXECUTORS:
		r.GetExecutors = m.getExecutors()
	case pb.Call_GET_TASKS:
		r.GetTasks = m.getTasks()
	case pb.Call_GET_MASTER:
		info, started := m.info, float64(m.started.UnixNano())/1e9
		r.GetMaster = &pb.Response_GetMaster{MasterInfo: &info, StartTime: &started, ElectedTime: &started}
	case pb.Call_GET_ROLES:
		r.GetRoles = m.getRoles()
	case pb.Call_GET_WEIGHTS:
		if len(m.weights) > 0 {
			r.GetWeights = &pb.Response_GetWeights{WeightInfos: m.weights.messages()}
		}
	case pb.Call_GET_OPERATIONS:
		r.GetOperations = &pb.Response_GetOperations{} // reservations are made at once
	case pb.Call_GET_QUOTA:
		r.GetQuota = &pb.Response_GetQuota{Status: m.quotas.status()}
	case pb.Call_GET_STATE:
		r.GetState = m.getState()
	case pb.Call_GET_MAINTENANCE_STATUS:
		r.GetMaintenanceStatus = &pb.Response_GetMaintenanceStatus{Status: m.clusterStatus()}
	case pb.Call_GET_MAINTENANCE_SCHEDULE:
		r.GetMaintenanceSchedule = &pb.Response_GetMaintenanceSchedule{Schedule: m.upkeep.schedule}
	default:
		return false
	}
	return true
}

func (m *master) getState() *pb.Response_GetState {
	return &pb.Response_GetState{
		GetAgents: m.getAgents(), GetFrameworks: m.getFrameworks(), GetExecutors: m.getExecutors(), GetTasks: m.getTasks(),
	}
}

func (m *master) getAgents() *pb.Response_GetAgents {
	out := &pb.Response_GetAgents{}
	for _, a := range m.registeredAgents() {
		out.Agents = append(out.Agents, m.getAgent(a))
	}
	return out
}

func (m *master) getAgent(a *agentEntry) pb.Response_GetAgents_Agent {
	pid, d := a.pid(), m.upkeep.deactivated[a.id]
	deactivated := d != nil
	view := pb.Response_GetAgents_Agent{
		AgentInfo: a.info, Active: m.offersOf(a), Deactivated: &deactivated, Version: mesosVersion, PID: &pid,
		RegisteredTime: timeInfo(a.registered), TotalResources: a.total.messages(withRole),
		AllocatedResources: a.used().messages(withRole), OfferedResources: a.offered().messages(withRole), Capabilities: agentCapabilities(),
	}
	if deactivated && d.drain != nil {
		view.DrainInfo, view.EstimatedDrainStartTime = d.drain, timeInfo(d.since)
	}
	return view
}

func agentCapabilities() []mesos.AgentInfo_Capability {
	var out []mesos.AgentInfo_Capability
	for c := mesos.AgentInfo_Capability_MULTI_ROLE; c <= mesos.AgentInfo_Capability_TASK_RESOURCE_LIMITS; c++ {
		out = append(out, mesos.AgentInfo_Capability{Type: c})
	}
	return out
}

func (m *master) getFrameworks() *pb.Response_GetFrameworks {
	out := &pb.Response_GetFrameworks{}
	for _, f := range m.sortedFrameworks() {
		view := pb.Response_GetFrameworks_Framework{
			FrameworkInfo: f.info, Active: f.stream != "", Connected: f.stream != "", Recovered: f.recovered,
			RegisteredTime: &mesos.TimeInfo{Nanoseconds: f.registered.UnixNano()}, AllocatedResources: m.usedBy(f).messages(withRole),
			OfferedResources: f.offered().messages(withRole),
		}
		if !f.reregistered.IsZero() {
			view.ReregisteredTime = &mesos.TimeInfo{Nanoseconds: f.reregistered.UnixNano()}
		}
		for _, o := range f.offers {
			view.Offers = append(view.Offers, m.message(o))
		}
		out.Frameworks = append(out.Frameworks, view)
	}
	return out
}

func (m *master) getExecutors() *pb.Response_GetExecutors {
	out := &pb.Response_GetExecutors{}
	for _, a := range m.registeredAgents() {
		for _, x := range a.executors {
			out.Executors = append(out.Executors, pb.Response_GetExecutors_Executor{ExecutorInfo: x.info, AgentID: mesos.AgentID{Value: string(a.id)}})
		}
	}
	return out
}

func (m *master) getTasks() *pb.Response_GetTasks {
	out := &pb.Response_GetTasks{}
	for _, f := range m.sortedFrameworks() {
		for _, t := range f.sortedTasks() {
			if t.agent.unreachable {
				out.UnreachableTasks = append(out.UnreachableTasks, t.info)
			} else {
				out.Tasks = append(out.Tasks, t.info)
			}
		}
		for _, t := range f.completed {
			out.CompletedTasks = append(out.CompletedTasks, t.info)
		}
	}
	return out
}
