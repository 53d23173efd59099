// Package rules holds a cluster's alert rules, as Prometheus rule files
// (https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/). It knows nothing else, and imports nothing of k8sm.
//
// The runbook of each alert is in docs/runbooks.md. Files in tests are for promtool.
package rules

import "embed"

// Files are the rule files.
//
//go:embed *.yaml
var Files embed.FS
