package cli

import (
	"cmp"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/status"
)

var nodes = kind[scheduler.LiveNode]{
	singular: "node", plural: "nodes", prefix: "node",
	short: "Show the nodes, their versions of km and the progress of a rollout",
	read:  (*status.Client).Nodes,
	columns: []metav1.TableColumnDefinition{
		column("Name"), column("Status"), column("Tasks"), column("Minion"), column("Age"), column("KM"), column("Rollout"),
		column("Failing"), wide("Cordoned for"), wide("Settings"), wide("Kubelet"), wide("Agent"),
	},
	rows: func(now time.Time, n scheduler.LiveNode) [][]any {
		km, minion, runs := "", "", ""
		if n.Minion {
			km, minion, runs = cmp.Or(n.KM, "<unknown>"), "Running", "<unknown>"
			if n.Since != nil {
				runs = age(now, *n.Since)
			}
			if n.Warm {
				minion = "Running,Warm"
			}
		}
		ready := "NotReady"
		if n.Ready {
			ready = "Ready"
		}
		if n.CordonedFor != "" {
			ready += ",SchedulingDisabled"
		}
		return [][]any{{n.Node, ready, fmt.Sprint(n.Tasks), or(minion), or(runs), or(km), or(n.Rollout.String()), or(n.Failing),
			or(n.CordonedFor), or(n.Settings), or(n.Kubelet), string(n.Agent)}}
	},
	name:  func(n scheduler.LiveNode) string { return n.Node },
	names: func(n scheduler.LiveNode) []string { return []string{n.Node} },
}

func nodesCommand(c *common) *cobra.Command { return showCommand(c, nodes) }
