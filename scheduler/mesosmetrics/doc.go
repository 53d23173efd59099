// Package mesosmetrics translates the metrics of a Mesos master (https://mesos.apache.org/documentation/latest/monitoring/) to
// Prometheus' names and labels. They are those of mesos_exporter (https://github.com/mesos/mesos_exporter), so that its dashboards and
// alerts can be used; a few are k8sm's own. What the master does not say has no sample.
//
// The package knows names and values only: package scheduler/mesos asks the master, and package scheduler/status serves the samples.
//
// Start reading at Translate; rules.go has the names.
package mesosmetrics
