package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/status"
)

var queue = kind[scheduler.WaitingPod]{
	singular: "pod", plural: "queue", prefix: "pod", short: "Show the pods that wait for a task, with the reason",
	read:    (*status.Client).Queue,
	columns: []metav1.TableColumnDefinition{column("Namespace"), column("Pod"), column("Age"), column("Attempts"), column("Reason")},
	rows: func(now time.Time, p scheduler.WaitingPod) (rows [][]any) {
		namespace, name := splitPod(p.Pod)
		waits, attempts := age(now, p.Since), fmt.Sprint(p.Attempts)
		for _, reason := range p.Reasons { // only the first line names the pod
			rows = append(rows, []any{namespace, name, waits, attempts, reason})
			namespace, name, waits, attempts = "", "", "", ""
		}
		return rows
	},
	name:      func(p scheduler.WaitingPod) string { _, name := splitPod(p.Pod); return name },
	names:     func(p scheduler.WaitingPod) []string { _, name := splitPod(p.Pod); return []string{p.Pod, name} },
	namespace: func(p scheduler.WaitingPod) string { namespace, _ := splitPod(p.Pod); return namespace },
}

func queueCommand(c *common) *cobra.Command { return showCommand(c, queue) }
