// Package footprint keeps the memory of a process that does little near what it uses. It sets the target of Go's garbage collector by
// how fast the process allocates, and gives back what only its start or a burst needed. It knows nothing of what the process is, and
// must import nothing of k8sm.
//
// The collector runs when the heap has grown by GOGC percent. With Go's 100 a heap of 100 MB takes 200 MB, however rarely it
// grows. A collection costs by what is in use, so what the collector takes of a processor is proportional to how fast the process
// allocates, and inversely to that percentage (https://go.dev/doc/gc-guide#GOGC). Follow keeps the first constant: a process that
// idles collects after a small growth, a busy one as by default.
//
// Start reading at Follow.
package footprint

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

const (
	// least is the percentage of a process that idles, most that of a busy one, which is Go's default.
	least, most = 20, 100
	// perMegabyte is the percentage for each MB that is allocated in a second. A collection of km's processes takes about 2 ms of a
	// processor for a MB in use, so this is about a fiftieth of a processor.
	perMegabyte = 10
	// look is how often an idle process is looked at.
	look = 5 * time.Second
)

// Follow does that until ctx ends, unless the environment variable GOGC sets the target. It returns at once, and reports whether it does.
func Follow(ctx context.Context) bool {
	if os.Getenv("GOGC") != "" {
		return false
	}
	go follow(ctx, look)
	return true
}

func follow(ctx context.Context, look time.Duration) {
	collected := make(chan struct{}, 1)
	remind(ctx, collected)
	tick := time.NewTicker(look)
	defer tick.Stop()
	p := pace{allocated: allocated(), at: time.Now(), percent: most}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-collected: // a process that becomes busy must not collect often until the next look
		}
		if percent, changed := p.next(allocated(), time.Now()); changed {
			debug.SetGCPercent(percent)
		}
		if p.mayRest() {
			debug.FreeOSMemory()
			_ = unmapProgram() // it costs memory only
		}
	}
}

// pace is what was seen at the last look.
type pace struct {
	allocated uint64 // bytes since the process started
	at        time.Time
	percent   int
	calm      time.Time // since when it allocates little; zero if it does not
	rested    time.Time // when memory was last given back
}

const (
	// calm is the highest percentage at which a process gives memory back: it allocates no more than 4 MB a second.
	calm = 4 * perMegabyte
	// restDelay is how long a process allocates little before it gives memory back, so that one that is about to start does not.
	restDelay = 15 * time.Second
	// restInterval is the shortest time between two times that memory is given back, which takes a collection.
	restInterval = 10 * time.Minute
)

// mayRest tells whether a process gives memory back now. It does so again and again while it allocates little: what it rarely uses comes
// back to it bit by bit.
func (p *pace) mayRest() bool {
	if p.calm.IsZero() || p.at.Sub(p.calm) < restDelay || !p.rested.IsZero() && p.at.Sub(p.rested) < restInterval {
		return false
	}
	p.rested = p.at
	return true
}

// shortest is the time between two looks below which nothing is said of how fast a process allocates.
const shortest = 100 * time.Millisecond

// next returns the percentage from now on, and whether it is another than before. It goes down by no more than half at a time,
// because work comes in bursts.
func (p *pace) next(allocated uint64, now time.Time) (percent int, changed bool) {
	took := now.Sub(p.at)
	if took < shortest {
		return p.percent, false
	}
	rate := float64(allocated-p.allocated) / (1 << 20) / took.Seconds()
	percent = int(math.Round(min(max(rate*perMegabyte, least), most)))
	percent = max(percent, p.percent/2)
	changed = percent != p.percent
	if percent > calm {
		p.calm = time.Time{}
	} else if p.calm.IsZero() {
		p.calm = now
	}
	p.allocated, p.at, p.percent = allocated, now, percent
	return percent, changed
}

// allocated is how many bytes the process has allocated on its heap since it started.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// reminder is garbage from the start: its finalizer runs after the next collection, and makes the next one.
type reminder struct{ _ [64]byte }

// remind sends to collected after each collection, until ctx ends.
func remind(ctx context.Context, collected chan<- struct{}) {
	runtime.SetFinalizer(new(reminder), func(*reminder) {
		select {
		case collected <- struct{}{}:
		default:
		}
		if ctx.Err() == nil {
			remind(ctx, collected)
		}
	})
}

// unmapProgram takes the pages of the process's program out of its memory; those that it goes on to use come back from the page cache at
// their next use. For each page that a program uses, the kernel maps those around it, and the initialization of km's packages is
// everywhere: half of the program is mapped when a process has started, of which it goes on to use little.
func unmapProgram() error {
	pages, err := program()
	for _, s := range pages {
		err = errors.Join(err, s.advise(unix.MADV_DONTNEED))
	}
	return err
}

// segment is a range of addresses.
type segment struct{ start, end uintptr }

// advise tells the kernel what to do with the pages (https://man7.org/linux/man-pages/man2/madvise.2.html).
func (s segment) advise(advice uintptr) error {
	_, _, code := unix.Syscall(unix.SYS_MADVISE, s.start, s.end-s.start, advice)
	if code != 0 {
		return os.NewSyscallError("madvise", code)
	}
	return nil
}

// program returns where the file of the process's program is in memory, without what has been written to: that is in no file.
func program() (pages []segment, err error) {
	self, err := procfs.Self()
	if err != nil {
		return nil, err
	}
	path, err := self.Executable()
	if err != nil {
		return nil, err
	}
	loaded, err := relocated(path)
	if err != nil {
		return nil, err
	}
	maps, err := self.ProcMaps()
	if err != nil {
		return nil, err
	}
	for _, m := range maps {
		written := m.Perms.Write || slices.ContainsFunc(loaded, func(s segment) bool { return m.StartAddr < s.end && s.start < m.EndAddr })
		if m.Pathname == path && m.Perms.Private && !written {
			pages = append(pages, segment{m.StartAddr, m.EndAddr})
		}
	}
	return pages, nil
}

// relocated returns what the loader writes to before it makes it read-only: a static program has none of that. It is an error if the
// program may be anywhere in memory, as one with -buildmode=pie may be.
func relocated(program string) (segments []segment, err error) {
	file, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if file.Type != elf.ET_EXEC {
		return nil, fmt.Errorf("%s is %s, not %s", program, file.Type, elf.ET_EXEC)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_GNU_RELRO {
			segments = append(segments, segment{uintptr(p.Vaddr), uintptr(p.Vaddr + p.Memsz)})
		}
	}
	return segments, nil
}
