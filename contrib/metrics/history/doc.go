// Package history keeps the history of a cluster's metrics, evaluates rules and sends alerts: Prometheus
// (https://prometheus.io/docs/prometheus/latest/) as a library. It knows how its parts fit together and what becomes of faults:
//
//   - A target that hangs, sends too much or garbage costs its own samples and one line of log.
//   - On a full disk, scraping goes on, but no samples are kept until there is room. Prometheus alone would crash.
//   - Damaged blocks and the damaged parts of the write-ahead log are moved aside, below damaged/ in the directory.
//   - If the clock goes back, blocks of times that have not come yet wait below future/ in the directory.
//   - A rule file that does not parse changes nothing. The other rules go on.
//
// It must not know what a cluster has: its caller names the targets. Prometheus sets variables of the process: have one History per
// process. Start reading at New and History.Run.
package history
