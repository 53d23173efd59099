package minion

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/minion/supervise"
)

// reportAgain is how often the report is looked at: somebody may have deleted the node, which the kubelet makes again
// without it.
const reportAgain = 5 * time.Minute

// report is what the node says of its minion.
type report struct {
	version string
	started time.Time
}

func (r report) annotations() map[string]string {
	return map[string]string{
		api.AnnotationKMVersion: r.version, api.AnnotationMinionStarted: r.started.UTC().Format(time.RFC3339Nano),
	}
}

// keep sees to it that the node carries the report, until ctx ends or that fails.
func (r report) keep(ctx context.Context, client kubernetes.Interface, node string) error {
	for {
		if err := r.write(ctx, client, node); err != nil {
			return err
		}
		if err := supervise.Sleep(ctx, reportAgain); err != nil {
			return err
		}
	}
}

// write makes the node carry the report, if it does not.
func (r report) write(ctx context.Context, client kubernetes.Interface, node string) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	object, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("cannot tell the node its minion's version: %w", err)
	}
	missing := map[string]string{}
	for key, value := range r.annotations() {
		if object.Annotations[key] != value {
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
	if _, err := client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("cannot tell the node its minion's version: %w", err)
	}
	return nil
}
