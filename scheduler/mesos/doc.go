// Package mesos speaks the Mesos v1 scheduler API for package scheduler, through mesos-go in protobuf: it finds the leading
// master, stays subscribed to it, and translates events and actions one to one
// (https://mesos.apache.org/documentation/latest/scheduler-http-api/). It decides nothing about pods, offers or tasks. It must
// never import k8s.io/kubernetes.
//
// Start reading at Master.Run. translate.go has both vocabularies, detector.go and zookeeper.go find masters, and refusal.go
// explains errors.
package mesos
