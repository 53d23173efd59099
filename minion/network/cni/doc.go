// Package cni connects a node's pods through CNI plugins that are installed on the machine, in place of package network
// (https://www.cni.dev/docs/spec/). It is a thin runtime over github.com/containernetworking/cni: it selects the active
// configuration, builds the input of the plugins, and remembers what each pod was given, so that it can be released even if the
// process that attached the pod, or the pod's network namespace, is gone.
//
// Start reading at Network.Attach. The package must never import k8s.io/kubernetes, nor know what a plugin does.
package cni
