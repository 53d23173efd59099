package api

// AnnotationAgentAddress, on a node, is the "ip:port" of the agent that it stands for. An agent that comes back at the
// same address under a new id has lost its state and takes over the node's name from the old one.
const AnnotationAgentAddress = "k8sm.io/agent-address"
