// Package read answers who reads logs: with the lines of containers, in the order in which they were written, and with VictoriaLogs' HTTP
// API. It checks no rights: its caller says whose lines a request may read.
//
// Start reading at Handler.Serve, then runs, which finds what there is, and merge, which puts it in order.
package read
