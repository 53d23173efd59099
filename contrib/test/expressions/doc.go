// Package expressions has no code but tests: they hold the alert rules in contrib/metrics/rules and the dashboards in contrib/dashboards
// to the metrics that a cluster has, to what Prometheus and Grafana read, and the rules to their runbooks.
//
// Metrics are those that docs/reference.md lists, and those of stock programs in testdata/stock: by job, the names of the series that they
// served while pods ran. Of histograms that nothing shows, the buckets are left out.
package expressions
