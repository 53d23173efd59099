package cli

import (
	"cmp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/status"
)

var tasks = kind[scheduler.LiveTask]{
	singular: "task", plural: "tasks", prefix: "task", short: "Show the Mesos tasks of the pods",
	read: (*status.Client).Tasks,
	columns: []metav1.TableColumnDefinition{
		column("Namespace"), column("Pod"), column("Task"), column("State"), column("Node"), column("Age"), column("Note"), wide("Agent"), wide("Message"),
	},
	rows: func(now time.Time, t scheduler.LiveTask) [][]any {
		namespace, name := splitPod(t.Pod)
		return [][]any{{or(namespace), or(name), string(t.ID), t.State, or(t.Node), age(now, t.Since), taskNote(t), string(t.Agent), or(t.Message)}}
	},
	name: func(t scheduler.LiveTask) string { return string(t.ID) },
	names: func(t scheduler.LiveTask) []string {
		_, name := splitPod(t.Pod)
		return []string{string(t.ID), cmp.Or(name, string(t.ID)), cmp.Or(t.Pod, string(t.ID))}
	},
	namespace: func(t scheduler.LiveTask) string { namespace, _ := splitPod(t.Pod); return namespace },
}

func tasksCommand(c *common) *cobra.Command { return showCommand(c, tasks) }

// taskNote returns the remarks about a task, for the column Note.
func taskNote(task scheduler.LiveTask) string {
	var notes []string
	if task.Warm {
		notes = append(notes, "keeps its node warm")
	} else if task.Pod == "" {
		notes = append(notes, "its pod is gone")
	}
	if task.Killing {
		notes = append(notes, "asked to end")
	}
	if !task.Bound && task.Pod != "" {
		notes = append(notes, "its pod is not bound yet")
	}
	return or(strings.Join(notes, ", "))
}
