// Package registry knows how a node reaches image registries: which certificates it trusts, and which credentials it sends. It follows
// Docker Engine in the first and kubelets in the second, so that whatever it connects to, they can pull from.
//
// It knows nothing of images and their formats, and imports nothing of k8sm.
//
// Start reading at Transport and Config.
package registry
