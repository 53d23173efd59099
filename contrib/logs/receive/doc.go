// Package receive is the log store's side of how minions ship what containers wrote: each line exactly once. Package api/logs has the
// protocol. Sessions are in memory only, and everything that must survive is in the store.
//
// A node can write only entries of pods that are or were on it. Its name and the pods' labels come from the cluster, never from the node.
//
// Start reading at Server.Serve, then node.take.
package receive
