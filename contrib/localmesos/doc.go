// Package localmesos is an Apache Mesos master and any number of agents in one process, for a laptop and for tests. It implements
// the v1 scheduler, executor and operator HTTP APIs in JSON and protobuf, runs executors as real processes in sandboxes, checkpoints
// them, and answers like a real Mesos 1.12: testdata/recorded has recorded answers, and the tests replay them. To benchmark
// schedulers with a thousand agents, executors may run inside this program (Executor).
//
// README.md lists the behavior that it copies because it is hard on frameworks, and what the real Mesos has and it lacks.
//
// Master and agents are state machines (master.step, agent.step: an event and the time in, actions out) without socket or disk, and
// without a clock but for metrics. A node (master_node.go, agent_node.go) owns each, and performs its actions. Master and agents
// exchange the messages in messages.go over an in-process wire. Faults can delay, drop or repeat every message.
//
// It must never import anything of k8sm except api: it stands for a Mesos that does not know k8sm. Start reading at Start, then
// master.step and agent.step.
package localmesos
