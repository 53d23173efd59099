// Package commit carries out the Commits of one node (k8sm.io/v1alpha1, package api/commit): it makes an image of a container of a pod
// and pushes it to a registry.
//
// The image is the one that the container runs, with one more layer: a copy of what the container has changed, which is made while the
// container runs and finished in a short pause (snapshot). Where only Docker Engine can read the changes, it makes the layer, in a pause
// that lasts as long. Docker's own commit copies the container's environment and labels into the image: values of Secrets, and labels
// by which a container counts as ours. So its configuration is replaced by that of the image that the container runs. Volumes are never
// in an image.
//
// One Commit is carried out at a time, so a node needs room for one image. All that a Commit leaves on the machine has its UID in the
// name and goes when the Commit has ended, is deleted, or when the next minion starts.
//
// Start reading at Run, then at attempt.make.
package commit
