package minion

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"github.com/k8sm/k8sm/executor"
	"github.com/k8sm/k8sm/minion/supervise"
)

// futileStarts is how often in a row a kubelet may end before it was ever healthy. After that the machine counts as unfit.
const futileStarts = 3

// firstHealth watches a kubelet until it is healthy for the first time. If it never is, the node is unfit; otherwise it would stay
// ready, because the scheduler reports it so until a kubelet runs, and its pods would wait forever.
type firstHealth struct {
	post    func(executor.Event)
	log     string // path of the kubelet's log
	healthy atomic.Bool
	ends    int // lives without health; owned by the supervisor's goroutine
}

// watch wraps the kubelet's command and its health probe.
func (f *firstHealth) watch(child supervise.Child) (run func(context.Context) error) {
	probe := child.Health.Probe
	child.Health = &supervise.Health{Every: child.Health.Every, Probe: func(ctx context.Context) error {
		err := probe(ctx)
		if err == nil && !f.healthy.Swap(true) {
			f.post(executor.Unfit{}) // takes back an earlier reason
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

// lastWords returns the last error in the log of a stock program, or its last line if there is none.
func lastWords(path string) string {
	const enough = 16 << 10
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text[max(0, len(text)-enough):]), []byte("\n"))
	last := string(lines[len(lines)-1])
	for _, line := range lines {
		if bytes.Contains(line, []byte("err=")) || bytes.Contains(line, []byte(`"err":`)) {
			last = string(line)
		}
	}
	var record struct{ Msg, Err string } // in the format json
	if json.Unmarshal([]byte(last), &record) == nil {
		return fmt.Sprintf("%q err=%q", record.Msg, record.Err)
	}
	if _, message, ok := strings.Cut(last, "] "); ok { // after klog's header
		last = message
	}
	return last
}
