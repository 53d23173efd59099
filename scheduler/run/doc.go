// Package run drives a scheduler.Core and does what it decides.
//
// Run is the owner loop: it alone touches the core. It feeds events in and hands each action to the part that can do it: a
// Master (package scheduler/mesos), a Cluster (package scheduler/kube), or one of this package's own performers, which
// prepare executors (executor.go) and assign addresses (addresses.go). No part blocks the loop: each queues its actions
// in lanes (package lanes) and answers by an event. Metrics, logs and the Window, by which others look at the core, are here
// as well.
//
//	Kubernetes ── kube.Cluster ──┐                             ┌── kube.Cluster ── Kubernetes
//	Mesos ─────── mesos.Master ──┤  Event   ┌──────┐   Action  ├── mesos.Master ── Mesos
//	Store, Tokens ── preparer ───┼─────────►│ Core ├──────────►├── preparer ────── Store, Tokens
//	Addresses ── addresser ──────┤          └──────┘           └── addresser ───── Addresses
//	clock ── ticker and alarm ───┘
//
// This package decides nothing: what follows from an event is package scheduler's. It imports no adapter.
//
// Start reading at Run.
package run
