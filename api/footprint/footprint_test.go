package footprint

import (
	"context"
	"crypto/sha256"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

func TestPercentageFollowsWhatIsAllocated(t *testing.T) {
	const mb = 1 << 20
	start := time.Unix(1000, 0)
	p := pace{at: start, percent: most}
	for _, look := range []struct {
		after     time.Duration
		allocated float64 // MB, since the look before
		want      int
		changed   bool
	}{
		{5 * time.Second, 100, 100, false}, // 20 MB/s
		{5 * time.Second, 1, 50, true},     // idle: half at a time
		{5 * time.Second, 1, 25, true},
		{5 * time.Second, 1, 20, true},
		{5 * time.Second, 1, 20, false},
		{5 * time.Second, 20, 40, true},             // 4 MB/s
		{200 * time.Millisecond, 10, 100, true},     // a burst: at once
		{50 * time.Millisecond, 0.001, 100, false},  // too short to tell
		{500 * time.Millisecond, 0.001, 50, true},   // both together: 0.55 s
		{5 * time.Second, 10000, 100, true},         // never above Go's own
		{5 * time.Second, 0, 50, true},              // nothing at all
		{time.Hour, 0, 25, true},                    // nor after a long time
		{100 * time.Millisecond, 0.3, 30, true},     // 3 MB/s
		{100 * time.Millisecond, 0.6, 60, true},     // 6 MB/s
		{100 * time.Millisecond, 0.0999, 30, true},  // 1 MB/s: half at a time
		{100 * time.Millisecond, 0.0999, 20, true},  // to the least
		{100 * time.Millisecond, 0.0999, 20, false}, // and stays
	} {
		start = start.Add(look.after)
		now := p.allocated + uint64(look.allocated*mb)
		if look.after < shortest {
			now = p.allocated
		}
		got, changed := p.next(now, start)
		if got != look.want || changed != look.changed {
			t.Errorf("%v MB in %v: %d, %v; want %d, %v", look.allocated, look.after, got, changed, look.want, look.changed)
		}
	}
}

// percent is the collector's target.
func percent() uint64 {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

var sink []byte

// until calls do until the target is as wanted.
func until(t *testing.T, want uint64, do func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for percent() != want {
		do()
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the target is %d percent, want %d", percent(), want)
		}
	}
}

func TestIdleProcessCollectsSoonerAndBusyOneAsByDefault(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(most))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go follow(ctx, 150*time.Millisecond)
	until(t, least, func() {})
	until(t, most, func() { sink = make([]byte, 1<<20) })
	until(t, least, func() {})
}

func TestCollectionIsALook(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(most))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go follow(ctx, time.Hour)
	until(t, least, runtime.GC)
}

func TestOperatorsTargetStays(t *testing.T) {
	t.Setenv("GOGC", "70")
	if Follow(t.Context()) {
		t.Error("it sets the target that the environment has set")
	}
}

func TestMemoryIsGivenBackOnceInAWhile(t *testing.T) {
	p := pace{at: time.Unix(1000, 0), percent: most}
	for i, look := range []struct {
		after time.Duration
		rate  float64 // MB/s
		want  bool
	}{
		{5 * time.Second, 20, false},
		{5 * time.Second, 4, false}, // half at a time
		{5 * time.Second, 4, false}, // calm from here on
		{10 * time.Second, 4, false},
		{5 * time.Second, 4, true},
		{time.Minute, 1, false},
		{restInterval - 61*time.Second, 1, false},
		{time.Second, 1, true}, // again
		{restInterval, 5, false},
		{5 * time.Second, 1, false}, // calm again from here on
		{restDelay - time.Second, 1, false},
		{time.Second, 1, true},
	} {
		p.next(p.allocated+uint64(look.rate*look.after.Seconds()*(1<<20)), p.at.Add(look.after))
		if got := p.mayRest(); got != look.want {
			t.Errorf("look %d: %v, want %v", i, got, look.want)
		}
	}
}

// mapped is how many KB of the program are in this process's memory.
func mapped(t *testing.T) (total uint64) {
	t.Helper()
	self, err := procfs.Self()
	if err != nil {
		t.Fatal(err)
	}
	program, err := self.Executable()
	if err != nil {
		t.Fatal(err)
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for line := range strings.Lines(string(smaps)) {
		fields := strings.Fields(line)
		if strings.Contains(fields[0], "-") {
			ours = fields[len(fields)-1] == program && !strings.Contains(fields[1], "w")
		}
		if ours && fields[0] == "Rss:" {
			size, err := strconv.ParseUint(fields[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			total += size
		}
	}
	return total
}

func TestProgramIsUnmappedAndRunsOn(t *testing.T) {
	sum := sha256.Sum256([]byte("before"))
	pages, err := program()
	if err != nil {
		t.Fatal(err)
	}
	var before, after uint64
	for range 10 { // a process that another test follows may have done so just now
		for _, s := range pages { // all of it, of which the test itself needs a part again
			if err := s.advise(unix.MADV_POPULATE_READ); err != nil {
				t.Fatal(err)
			}
		}
		before = mapped(t)
		if err := unmapProgram(); err != nil {
			t.Fatal(err)
		}
		if after = mapped(t); after < before {
			break
		}
	}
	if after >= before {
		t.Errorf("%d KB of the program are mapped, %d before", after, before)
	}
	if again := sha256.Sum256([]byte("before")); again != sum {
		t.Error("the program does something else than before")
	}
}

// What the loader writes to, before it makes it read-only, is in no file: a program that lost it would crash.
func TestProgramThatMayBeAnywhereIsLeftAlone(t *testing.T) {
	if _, err := relocated("/bin/sh"); err == nil { // which Debian builds so
		t.Error("its addresses are known")
	}
}
