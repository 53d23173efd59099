// Package mesos speaks the Mesos v1 scheduler API for package scheduler, through mesos-go in protobuf: it finds the
// leading master, keeps a subscription to it, and translates events and actions one to one
// (https://mesos.apache.org/documentation/latest/scheduler-http-api/). It decides nothing about pods, offers or tasks.
//
// Start reading at Master.Run; translate.go has the two vocabularies side by side.
package mesos
