// Package store keeps log entries on disk with VictoriaLogs (https://docs.victoriametrics.com/victorialogs/) as a library, and queries
// them by LogsQL (https://docs.victoriametrics.com/victorialogs/logsql/). It is the only package that imports VictoriaLogs. It knows
// nothing of Kubernetes, and checks no rights: it keeps a query within a tenant and a filter.
//
// VictoriaLogs has global variables: a process has one store. It panics when it finds damaged files, on any goroutine: run it in a
// process of its own that is started again.
//
// Start reading at Open, Store.Add and Store.Sync.
package store
