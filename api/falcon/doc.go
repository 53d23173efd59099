// Package falcon sends metrics to open-falcon (https://github.com/open-falcon/falcon-plus): to the agent on the same machine by HTTP, or
// to transfers by JSON-RPC.
//
// A receiver is not trusted to answer well, or at all: each call has a deadline and reads a bounded answer, and what cannot be sent
// waits in a queue with a bound. One log line says that an outage begins, and one that it is over.
//
// Start reading at Pusher. The package must never know what the metrics mean: who measures makes the elements.
package falcon
