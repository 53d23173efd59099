// Package mesosstate knows what a Mesos cluster consists of, as its leading master tells it by the operator API
// (https://mesos.apache.org/documentation/latest/operator-http-api/): agents, frameworks, roles, and what they use.
//
//	SUBSCRIBE ── ReadEvent ──┐
//	                         ├──► Cluster ──► Document
//	GET_* ────── ReadAnswer ─┘
//
// A Cluster keeps of each task only who uses how much where, and the answers of the master are decoded object by object while they are
// read. So the memory for a large cluster is that of its objects, not that of the master's answers.
//
// The package does no I/O but to read from the io.Reader that it is given: package scheduler/mesos asks the master. Start reading at
// Cluster; Document is what people and programs see.
package mesosstate
