package localmesos

import (
	"net/http"

	pb "github.com/mesos/mesos-go/api/v1/lib/agent"
)

// serveOperator answers the calls of the agent's operator API
// (https://mesos.apache.org/documentation/latest/operator-http-api/#agent-api).
func (n *agentNode) serveOperator(w http.ResponseWriter, r *http.Request) {
	var call pb.Call
	codec, refusal := readOperatorCall(r, &call, func() string { return agentCallProblem(&call) })
	if refusal.status != 0 {
		http.Error(w, refusal.text, refusal.status)
		return
	}
	response := &pb.Response{Type: pb.Response_Type(pb.Response_Type_value[call.Type.String()])}
	switch call.Type {
	case pb.Call_GET_HEALTH:
		response.GetHealth = &pb.Response_GetHealth{Healthy: true}
	case pb.Call_GET_VERSION:
		response.GetVersion = &pb.Response_GetVersion{VersionInfo: versionInfo()}
	case pb.Call_GET_FLAGS:
		response.GetFlags = &pb.Response_GetFlags{Flags: flagMessages(n.flags())}
	case pb.Call_GET_METRICS:
		found := n.metrics(r.Context(), timeoutOf(call.GetMetrics.Timeout))
		response.GetMetrics = &pb.Response_GetMetrics{Metrics: found.messages()}
	default:
		http.Error(w, notKnown(call.Type), http.StatusNotImplemented)
		return
	}
	writeResponse(w, codec, response)
}

// agentCallProblem returns what makes a call malformed, in Mesos's words, or "" (agent::call::validate in src/slave/validation.cpp).
func agentCallProblem(call *pb.Call) string {
	const prefix = "Failed to validate agent::Call: "
	switch {
	case call.Type == pb.Call_UNKNOWN:
		return prefix + "Expecting 'type' to be present"
	case call.Type == pb.Call_GET_METRICS && call.GetMetrics == nil:
		return prefix + "Expecting 'get_metrics' to be present"
	}
	return ""
}
