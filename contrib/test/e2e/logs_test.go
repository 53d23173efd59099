package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// chatter writes to both streams: many lines, an empty one, one that is no UTF-8, one that the Engine splits, and one without an end.
const chatter = `i=0; while [ $i -lt 3000 ]; do echo "line $i"; [ $((i % 50)) = 0 ] && echo "trouble $i" >&2; i=$((i+1)); done
printf 'a tab\t, a quote ", \377 and\001\n\n'
/bin/busybox head -c 40000 /dev/zero | /bin/busybox tr '\000' x; echo
printf 'no end'`

// logsOutliveTheirPod compares what kubectl shows of a pod's containers with what the log store has of them when the pod is gone.
func logsOutliveTheirPod(t *testing.T, c *scratch.Cluster) {
	p := pod("talker", chatter)
	other := *p.Spec.Containers[0].DeepCopy()
	other.Name, other.Command = "other", []string{"/bin/busybox", "sh", "-c", "echo of another container"}
	p.Spec.Containers = append(p.Spec.Containers, other)
	p = create(t, c, p)
	awaitPhase(t, c, p.Name, corev1.PodSucceeded)
	want := map[string][]byte{"main": shownLog(t, c, p.Name, "main", "no end"), "other": shownLog(t, c, p.Name, "other", "container\n")}
	if err := c.Kube.CoreV1().Pods("default").Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	err := scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error {
		if _, err := c.Kube.CoreV1().Pods("default").Get(ctx, p.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the pod is still there: %w", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, shown := range want {
		err := scratch.Until(t.Context(), 2*time.Minute, func(ctx context.Context) error {
			stored, err := storedLog(ctx, c, "namespaces/default/pods/"+p.Name, "container", name)
			if err != nil {
				return err
			}
			if !bytes.Equal(stored, shown) {
				at := 0
				for at < min(len(stored), len(shown)) && stored[at] == shown[at] {
					at++
				}
				return fmt.Errorf("of container %s kubectl showed %d bytes, the store has %d, and they differ from byte %d on: %.100q, %.100q",
					name, len(shown), len(stored), at, shown[at:], stored[at:])
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	for _, component := range []string{"minion", "kubelet", "proxy"} {
		err := scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error {
			stored, err := storedLog(ctx, c, api.LogsComponents+"/*", "tail", "100")
			if err == nil && !bytes.Contains(stored, []byte(component+": ")) {
				err = fmt.Errorf("the store has nothing of %s", component)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// shownLog returns what kubectl shows of a container, up to this end.
func shownLog(t *testing.T, c *scratch.Cluster, pod, container, end string) (shown []byte) {
	t.Helper()
	err := scratch.Until(t.Context(), time.Minute, func(ctx context.Context) (err error) {
		if shown, err = c.KM(ctx, "kubectl", "logs", pod, "-c", container).Output(); err == nil && !bytes.HasSuffix(shown, []byte(end)) {
			err = fmt.Errorf("kubectl shows %d bytes of container %s, without %q at the end", len(shown), container, end)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return shown
}

// storedLog returns what the log store has. Lines of components begin with their names.
func storedLog(ctx context.Context, c *scratch.Cluster, of string, parameter, value string) ([]byte, error) {
	answer, err := c.Kube.CoreV1().RESTClient().Get().AbsPath("/apis/"+api.LogsGroup+"/"+api.LogsVersion+"/"+of+"/log").
		SetHeader("Accept", "*/*").Param(parameter, value).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read logs: %w: %s", err, answer)
	}
	var text bytes.Buffer
	for lines := json.NewDecoder(bytes.NewReader(answer)); ; {
		var line struct {
			Component, Message, Lost, Error string
			Raw                             []byte
			More                            bool
		}
		err := lines.Decode(&line)
		switch {
		case errors.Is(err, io.EOF):
			return text.Bytes(), nil
		case err != nil:
			return nil, fmt.Errorf("cannot read logs: %w", err)
		case line.Error != "" || line.Lost != "":
			return nil, fmt.Errorf("cannot read all logs: %s%s", line.Error, line.Lost)
		}
		if line.Component != "" {
			text.WriteString(line.Component + ": ")
		}
		text.WriteString(line.Message)
		if text.Write(line.Raw); !line.More {
			text.WriteByte('\n')
		}
	}
}
