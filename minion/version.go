package minion

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/minion/supervise"
)

// reportAgain is how often the report is checked: the problems may change, and the kubelet recreates a deleted node without the
// report.
const reportAgain = time.Minute

// report is what the minion writes to its Node object.
type report struct {
	version  string
	settings string // an api.MinionConfig.Settings; "" if unknown
	started  time.Time
	port     func() int // of the minion's status; nil or 0 while it has none
	// problems are those of the agent that do not stop pods. They appear as a node condition and as events.
	problems []string
	// watch returns further problems that exist now; nil if there are no checks.
	watch func(context.Context) []string
	// authorities is the annotation with the CAs that the node knows; nil for none.
	authorities func() map[string]string
}

// conditionProblem is the node condition for problems of the Mesos agent. It is true if there is one, as in node-problem-detector.
const conditionProblem corev1.NodeConditionType = "MesosAgentProblem"

func (r report) annotations() map[string]string {
	return map[string]string{
		api.AnnotationKMVersion: r.version, api.AnnotationMinionStarted: r.started.UTC().Format(time.RFC3339Nano),
	}
}

// withSettings are the annotations and the settings. They are written at once: another start time with the settings of before would
// be a minion that has not taken the new ones.
func (r report) withSettings() map[string]string {
	all := r.annotations()
	if r.settings != "" {
		all[api.AnnotationSettings] = r.settings
	}
	return all
}

// statusPort is an annotation of its own, because the control plane of an older version does not let the node write it.
func (r report) statusPort() map[string]string {
	if r.port == nil || r.port() == 0 {
		return nil
	}
	return map[string]string{api.AnnotationStatusPort: strconv.Itoa(r.port())}
}

// keep keeps the report on the node until ctx ends or a write fails.
func (r report) keep(ctx context.Context, client kubernetes.Interface, node string) error {
	for now := r; ; {
		if err := now.write(ctx, client, node); err != nil {
			return err
		}
		if err := supervise.Sleep(ctx, reportAgain); err != nil {
			return err
		}
		if r.watch != nil {
			now.problems = slices.Concat(r.problems, r.watch(ctx))
		}
	}
}

// write writes the report to the node, unless it is there already.
func (r report) write(ctx context.Context, client kubernetes.Interface, node string) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	object, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("cannot write the minion's version to the node: %w", err)
	}
	if err := r.tell(ctx, client, object); err != nil {
		return err
	}
	if annotate(ctx, client, object, r.withSettings()) != nil { // the control plane of an older version does not let the node write them
		if err := annotate(ctx, client, object, r.annotations()); err != nil {
			return fmt.Errorf("cannot write the minion's version to the node: %w", err)
		}
	}
	if err := annotate(ctx, client, object, r.statusPort()); err != nil {
		logrus.WithField("node", node).WithError(err).Debug("cannot write the port of the minion's metrics to the node")
	}
	if r.authorities == nil {
		return nil
	}
	if err := annotate(ctx, client, object, r.authorities()); err != nil { // as above
		logrus.WithField("node", node).WithError(err).Debug("cannot write the node's CAs to the node")
	}
	return nil
}

// annotate writes the annotations that the node does not have yet.
func annotate(ctx context.Context, client kubernetes.Interface, node *corev1.Node, wanted map[string]string) error {
	missing := map[string]string{}
	for key, value := range wanted {
		if node.Annotations[key] != value {
			missing[key] = value
		}
	}
	if len(missing) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": missing}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// condition returns the node condition for the problems.
func (r report) condition() corev1.NodeCondition {
	if len(r.problems) == 0 {
		return corev1.NodeCondition{Type: conditionProblem, Status: corev1.ConditionFalse, Reason: "NoProblem", Message: "the minion found no problem with the agent"}
	}
	return corev1.NodeCondition{Type: conditionProblem, Status: corev1.ConditionTrue, Reason: "HasProblems", Message: strings.Join(r.problems, "; ")}
}

// tell writes the node condition, and an event for each new problem.
func (r report) tell(ctx context.Context, client kubernetes.Interface, node *corev1.Node) error {
	condition := r.condition()
	var before string
	for _, c := range node.Status.Conditions {
		if c.Type == conditionProblem && c.Status == condition.Status && c.Message == condition.Message {
			return nil
		}
		if c.Type == conditionProblem {
			before = c.Message
		}
	}
	now := metav1.Now()
	condition.LastHeartbeatTime, condition.LastTransitionTime = now, now
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{condition}}})
	if err != nil {
		return err
	}
	if _, err := client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("cannot write condition MesosAgentProblem to the node: %w", err)
	}
	for i, problem := range r.problems {
		if strings.Contains(before, problem) {
			continue
		}
		event := &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", node.Name, now.UnixNano()+int64(i)), Namespace: metav1.NamespaceDefault},
			InvolvedObject: corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: node.Name, UID: node.UID},
			Type:           corev1.EventTypeWarning, Reason: string(conditionProblem), Message: problem,
			Source: corev1.EventSource{Component: "km-minion", Host: node.Name}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
		}
		if _, err := client.CoreV1().Events(event.Namespace).Create(ctx, event, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("cannot create an event for the node's agent: %w", err)
		}
	}
	return nil
}
