// Package localmesos is an Apache Mesos master and any number of agents in one process, for a laptop and for tests. It
// speaks the v1 scheduler, executor and operator HTTP APIs in JSON and protobuf, runs executors as real processes in
// sandboxes, checkpoints them, and answers as a real Mesos 1.12 does: testdata/recorded holds what one answered, and
// the tests replay it. To measure schedulers with a thousand agents, executors may run inside this program (Executor).
//
// What it leaves out: authentication of others than schedulers, volumes, reservations by frameworks (operators can make
// them), containers but for the cgroups of --isolation, gpus. What differs: offers go to the framework that waited
// longest, not by dominant resource fairness; nothing is laid away for the guarantees of a quota, its limits are kept; all
// agents are one machine to maintenance; an agent that is told to shut down comes back as a new one by itself, as soon as
// it may register.
//
// How it is made: master and agent are state machines (master.step, agent.step: an event and the time in, actions out)
// without clock, socket or disk. A node (node.go) owns each, and performs the actions. Master and agents send each
// other the messages in messages.go through a wire in this process. Faults stand in the path of every message.
//
// It imports nothing of k8sm but api, and must never: it stands in for a Mesos that k8sm has not made. Start reading
// at Start, then master.step and agent.step.
package localmesos
