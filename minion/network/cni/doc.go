// Package cni gives a node's pods their network by a CNI plugin that the machine has, in place of the one of package network
// (https://www.cni.dev/docs/spec/). It is a thin runtime over github.com/containernetworking/cni: which configuration of a
// directory is in force, what a pod's plugins are told, and what has to be taken back although the process that gave it, or
// the pod's network namespace, is gone.
//
// Start reading at Network.Attach. It must never import k8s.io/kubernetes, nor know what a plugin does.
package cni
