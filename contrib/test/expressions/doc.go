// Package expressions has no code but tests: they hold the alert rules in contrib/metrics/rules to what Prometheus reads, and to their
// runbooks.
package expressions
