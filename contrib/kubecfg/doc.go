// Package kubecfg is the client of the first Kubernetes' clusters, as it was in October 2014: its command line, what it prints, and
// the requests that it sends to a server of v1beta1. A test replays calls that were recorded from the program of then, byte for byte.
//
// It differs on purpose in a few things: messages have no header of a log, a failure's exit status is 1, only a log directory that
// was given is written to, all that is read has a limit, and without -h it asks its caller where the cluster is.
//
// Start reading at Run. The verbs are in verbs.go (for any resource) and controllers.go (for replication controllers), the flags in
// flags.go, and what is printed in print.go. It must never import what the server is made of.
package kubecfg
