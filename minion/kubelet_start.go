package minion

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"github.com/k8sm/k8sm/executor"
	"github.com/k8sm/k8sm/minion/supervise"
)

// futileStarts is after how many lives in a row without health a kubelet counts as one that cannot run here.
const futileStarts = 3

// firstHealth watches a kubelet until it is healthy for the first time. One that never is would leave its node ready, as the
// scheduler says it is until a kubelet runs, and its pods waiting for ever.
type firstHealth struct {
	post    func(executor.Event)
	log     string // the kubelet's
	healthy atomic.Bool
	ends    int // without health; the supervisor's goroutine has it
}

// watch returns the kubelet's command, watched.
func (f *firstHealth) watch(child supervise.Child) (run func(context.Context) error) {
	probe := child.Health.Probe
	child.Health = &supervise.Health{Every: child.Health.Every, Probe: func(ctx context.Context) error {
		err := probe(ctx)
		if err == nil && !f.healthy.Swap(true) {
			f.post(executor.Unfit{}) // whatever was said before
		}
		return err
	}}
	return func(ctx context.Context) error {
		err := child.Run(ctx)
		if ctx.Err() == nil {
			f.ended(err)
		}
		return err
	}
}

func (f *firstHealth) ended(err error) {
	if f.healthy.Load() {
		return
	}
	if f.ends++; f.ends >= futileStarts {
		f.post(executor.Unfit{Reason: fmt.Sprintf("the kubelet does not start (%v): %s", err, lastWords(f.log))})
	}
}

// lastWords are the last error in a log of a stock program, or else its last line.
func lastWords(path string) string {
	const enough = 16 << 10
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text[max(0, len(text)-enough):]), []byte("\n"))
	last := string(lines[len(lines)-1])
	for _, line := range lines {
		if bytes.Contains(line, []byte("err=")) {
			last = string(line)
		}
	}
	if _, message, ok := strings.Cut(last, "] "); ok { // after klog's time and place
		last = message
	}
	return last
}
