package e2e

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// counting writes numbered lines of 100 bytes: FIRST at once, then some hundred a second until the file /stop is there.
const counting = `i=FIRST; x=...........................................................................................
/bin/busybox awk -v n=$i -v x=$x 'BEGIN { for (i = 0; i < n; i++) printf "%08d %s\n", i, x }'
while [ ! -e /stop ]; do j=0; while [ $j -lt 50 ]; do printf '%08d %s\n' $i $x; i=$((i+1)); j=$((j+1)); done; /bin/busybox sleep 0.1; done; echo "the end"`

// rotating are so many lines of counting that the kubelet rotates the log. It keeps files of 10 MiB, and more than these are.
const rotating = 120_000

// countingPods are pods that count, one on each node.
type countingPods struct {
	dir  string // the cluster's
	pods []*corev1.Pod
}

func startCounting(t *testing.T, c *scratch.Cluster, dir string) *countingPods {
	t.Helper()
	s := &countingPods{dir: dir}
	for node := range c.Engines {
		first := 0
		if node == "node-1" {
			first = rotating
		}
		p := pod("counter-"+node, strings.ReplaceAll(counting, "FIRST", strconv.Itoa(first)))
		p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
		s.pods = append(s.pods, create(t, c, p))
	}
	for _, p := range s.pods {
		awaitPhase(t, c, p.Name, corev1.PodRunning)
	}
	return s
}

// survive kills the log store, a minion and a Docker Engine while pods write, and deletes a pod while there is no store.
func (s *countingPods) survive(t *testing.T, c *scratch.Cluster) {
	// It writes to one stream: kubectl shows in the middle of a line that the Engine splits what came on the other stream meanwhile, and
	// km logs shows that line whole.
	short := create(t, c, pod("short", strings.NewReplacer("3000", "300", " >&2", "").Replace(chatter)))
	awaitPhase(t, c, short.Name, corev1.PodSucceeded)
	shown := shownLog(t, c, short.Name, "main", "no end")
	gone := make(chan error, 1)
	go func() {
		gone <- c.Kube.CoreV1().Pods("default").Delete(t.Context(), short.Name, metav1.DeleteOptions{})
	}()
	err := scratch.Until(t.Context(), time.Minute, func(ctx context.Context) error { // it is started again and again, and killed each time
		for _, pid := range running(t, c, "logstore") {
			_ = syscall.Kill(pid, syscall.SIGKILL) // or it has ended
		}
		_, err := c.Kube.CoreV1().Pods("default").Get(ctx, short.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("the pod is still there: %w", err)
	})
	if err := cmp.Or(<-gone, err); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"minion", "dockerd"} {
		pids := running(t, c, role)
		if len(pids) != len(c.Engines) {
			t.Fatalf("there are %s %v", role, pids)
		}
		if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		err := scratch.Until(t.Context(), time.Minute, func(context.Context) error {
			if now := running(t, c, role); len(now) != len(pids) || slices.Contains(now, pids[0]) {
				return fmt.Errorf("of %s %v, %d was killed, and now there are %v", role, pids, pids[0], now)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	stored(t, c, short.Name, shown)
}

// areStored ends the pods and compares what the kubelet's files have of them, rotated ones included, with what the store has.
func (s *countingPods) areStored(t *testing.T, c *scratch.Cluster) {
	for _, p := range s.pods {
		if out, err := c.KM(within(t, 30*time.Second), "kubectl", "exec", p.Name, "--", "/bin/busybox", "touch", "/stop").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for _, p := range s.pods {
		awaitPhase(t, c, p.Name, corev1.PodSucceeded)
		wrote, files := writtenLog(t, s.dir, p)
		lines := strings.Split(strings.TrimSuffix(wrote, "\n"), "\n")
		t.Logf("%s wrote %d lines to %d files", p.Name, len(lines), files)
		if files < 2 && len(lines) > rotating || lines[len(lines)-1] != "the end" {
			t.Errorf("%s has %d files, which end with %q", p.Name, files, lines[len(lines)-1])
		}
		for i, line := range lines[:len(lines)-1] {
			if !strings.HasPrefix(line, fmt.Sprintf("%08d ", i)) {
				t.Errorf("line %d of %s is %q", i, p.Name, line)
				break
			}
		}
		stored(t, c, p.Name, []byte(wrote))
	}
}

// stored waits until `km logs` shows exactly this of a pod.
func stored(t *testing.T, c *scratch.Cluster, pod string, want []byte) {
	t.Helper()
	// Nodes try again after 30 s if the store was away for long.
	err := scratch.Until(t.Context(), 2*time.Minute, func(ctx context.Context) error {
		got, err := c.KM(ctx, "logs", pod, "-o", "raw").Output()
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			at := firstDifference(got, want)
			return fmt.Errorf("of pod %s the store has %d bytes, and the node wrote %d, which differ from byte %d on: %.60q, %.60q", pod, len(got), len(want), at, got[at:], want[at:])
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// firstDifference returns where two texts begin to differ.
func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// writtenLog returns what the files of a pod's container have, in the order in which they were written, and how many these are.
func writtenLog(t *testing.T, dir string, p *corev1.Pod) (text string, files int) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "nodes", "*", "*", "pod-logs", "default_"+p.Name+"_"+string(p.UID), "main", "0.log*"))
	if err != nil || len(found) == 0 {
		t.Fatalf("the files of pod %s are %v, %v", p.Name, found, err)
	}
	slices.Sort(found)
	found = append(found[1:], found[0]) // 0.log is being written
	var all strings.Builder
	for _, path := range found {
		content, err := readLogFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			parts := strings.SplitN(line, " ", 4)
			if len(parts) < 4 {
				t.Fatalf("%s has the line %q", path, line)
			}
			if parts[2] == "P" {
				parts[3] = strings.TrimSuffix(parts[3], "\n")
			}
			all.WriteString(parts[3])
		}
	}
	return all.String(), len(found)
}

// readLogFile reads a file that the kubelet may have compressed.
func readLogFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if !strings.HasSuffix(path, ".gz") {
		return io.ReadAll(file)
	}
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(unpacked)
}
