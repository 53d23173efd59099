// Package commiter is `km commit`: it makes images of pods' containers and pushes them to a registry, and takes a component over from its
// ReplicationController: each pod gets a controller of its own (its pod_rc), which makes it again with its image and its address, here
// or in another cluster.
//
// A run can be killed after each step and begun again: what a step did is found by what is there, in the cluster and in the files, and
// is not done twice. The images are made by minions (package minion/commit), which Commits ask for (package api/commit). The addresses
// are written to etcd by the control plane.
//
// Start reading at NewCommand, then at run.component.
package commiter
