// Package localmesos is an Apache Mesos master and any number of agents in one process, for a laptop and for tests. It
// speaks the v1 scheduler, executor and operator HTTP APIs in JSON and protobuf, runs executors as real processes in
// sandboxes, checkpoints them, and answers as a real Mesos 1.12 does: testdata/recorded holds what one answered, and
// the tests replay it. To measure schedulers with a thousand agents, executors may run inside this program (Executor).
//
// README.md lists what it does as the real one where that is hard on frameworks, and all that the real one does and it does
// not.
//
// How it is made: master and agent are state machines (master.step, agent.step: an event and the time in, actions out)
// without clock, socket or disk. A node (master_node.go, agent_node.go) owns each, and performs the actions. Master and agents send each
// other the messages in messages.go through a wire in this process. Faults stand in the path of every message.
//
// It imports nothing of k8sm but api, and must never: it stands in for a Mesos that k8sm has not made. Start reading
// at Start, then master.step and agent.step.
package localmesos
