// Package run drives a scheduler.Core and performs its actions.
//
// Only the loop in Run touches the core. It passes events to the core and each action to the part that performs it: a
// Master (package scheduler/mesos), a Cluster (package scheduler/kube), or a part of this package, which prepares executors
// (executor.go) or assigns addresses (addresses.go). No part blocks the loop: each queues its actions in lanes (package lanes)
// and answers with an event. This package also has the metrics, the log of events and actions, and the Window, which shows the
// state of the core.
//
//	Kubernetes ── kube.Cluster ──┐                             ┌── kube.Cluster ── Kubernetes
//	Mesos ─────── mesos.Master ──┤  Event   ┌──────┐   Action  ├── mesos.Master ── Mesos
//	Store, Tokens ── preparer ───┼─────────►│ Core ├──────────►├── preparer ────── Store, Tokens
//	Addresses ── addresser ──────┤          └──────┘           └── addresser ───── Addresses
//	clock ── ticker and alarm ───┘
//
// This package decides nothing: package scheduler does. It never imports an adapter.
//
// Start reading at Run.
package run
