package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/statedir"
)

const (
	// mixPods are created on the control plane whose own logs are the mix if no other is named.
	mixPods = 500
	// mixPace is the mean time between two lines of a file that does not tell it in the container runtime's format.
	mixPace = 10 * time.Millisecond
)

var (
	mixName = regexp.MustCompile(`\.log(\.[0-9-]+)?$`)
	// inCRI is what a line begins with in the format of a container runtime.
	inCRI = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T\S+ (stdout|stderr) ([FP])(:\S*)? `)
	// mixCopies are directories with the same as others: what minions keep for a store, the sandboxes of Mesos' tasks, and what an Engine keeps.
	mixCopies = []string{"links", "mesos", "local-logs"}
	// mixPod is the directory of a pod's logs.
	mixPod = regexp.MustCompile(`/[a-z0-9-]+_[a-z0-9.-]+_[0-9a-z-]{32,36}/`)
)

// logMix measures how much disk a byte of real logs takes. The peer is gzip, by which rotated files are often compressed.
func (b *bench) logMix(ctx context.Context) error {
	if b.logMixDir != "" {
		return b.storeMix(ctx, b.logMixDir)
	}
	return b.inPlane(ctx, nil, func(h *hollow) error {
		err := parallel(ctx, mixPods, func(ctx context.Context, i int) error {
			pod := hollowPod("mix", i)
			_, err := h.kube.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
			return err
		})
		if err != nil {
			return err
		}
		return b.storeMix(ctx, string(h.dir))
	})
}

// storeMix ships all log files below a directory to a store of their own.
func (b *bench) storeMix(ctx context.Context, dir string) error {
	return b.inLogs(ctx, func(l *logsBench) error {
		if err := l.addPods(ctx, 1); err != nil {
			return err
		}
		m := &mix{kinds: map[string]int64{}, random: rand.New(rand.NewPCG(1, 2))}
		if err := l.takeMix(dir, m); err != nil {
			return err
		}
		if m.lines == 0 {
			return fmt.Errorf("there are no logs below %s", dir)
		}
		fmt.Printf("the mix: %d files, %d lines, %.1f MB%s\n", m.files, m.lines, float64(m.size)/1e6, m)
		stop, err := l.startMinion(ctx)
		if err != nil {
			return err
		}
		defer stop()
		l.minion.begin()
		if err := l.minion.await(ctx, m.lines); err != nil {
			return err
		}
		used, err := l.disk(ctx)
		if err != nil {
			return err
		}
		f := single("logs_disk_per_byte_of_mix", "bytes", float64(used)/float64(m.size))
		f.peer = []float64{float64(m.zipped) / float64(m.size)}
		printAll(f)
		return nil
	})
}

// mix counts what was taken of real logs.
type mix struct {
	random       *rand.Rand
	files, lines int
	size, zipped int64 // bytes of lines, and of these compressed
	kinds        map[string]int64
}

// String says how much there is of which kind.
func (m *mix) String() string {
	var text strings.Builder
	for _, kind := range slices.SortedFunc(maps.Keys(m.kinds), func(a, b string) int { return int(m.kinds[b] - m.kinds[a]) }) {
		fmt.Fprintf(&text, ", %s %.1f %%", kind, 100*float64(m.kinds[kind])/float64(m.size))
	}
	return text.String()
}

// takeMix makes each log file below a directory the log of a container of the pod. A file with several names counts once.
func (l *logsBench) takeMix(dir string, m *mix) error {
	seen := map[uint64]bool{}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (path == statedir.Dir(dir).Logs() || slices.Contains(mixCopies, d.Name())):
			return fs.SkipDir
		case !d.Type().IsRegular() || !mixName.MatchString(d.Name()):
			return nil
		}
		info, err := d.Info()
		if err != nil || info.Size() == 0 {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || seen[st.Ino] {
			return nil
		} else {
			seen[st.Ino] = true
		}
		to := l.path(l.pods[0], "c"+strconv.Itoa(m.files))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		before := m.size
		if err := m.take(path, to); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		m.files++
		m.kinds[kindOf(path)] += m.size - before
		return nil
	})
}

// kindOf says what a log is of.
func kindOf(path string) string {
	if mixPod.MatchString(path) {
		return "pods"
	}
	base, _, _ := strings.Cut(filepath.Base(path), ".log")
	if _, err := strconv.Atoi(base); err == nil { // that of a component on a node
		return filepath.Base(filepath.Dir(path))
	}
	return base
}

// take copies a log in the format of a container runtime.
func (m *mix) take(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	file, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	at := info.ModTime().UTC()
	packed := &counter{}
	zip, out := gzip.NewWriter(packed), bufio.NewWriter(file)
	for lines := bufio.NewReader(in); ; {
		line, err := lines.ReadBytes('\n')
		if len(line) == 0 && errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		line = append(bytes.TrimSuffix(line, []byte("\n")), '\n')
		if head := inCRI.FindSubmatchIndex(line); head != nil {
			_, _ = out.Write(line) // Flush tells
			content := line[head[1]:]
			if line[head[4]] == 'P' {
				content = content[:len(content)-1]
			}
			line = content
		} else {
			at = at.Add(time.Duration(m.random.ExpFloat64() * float64(mixPace)))
			_, _ = fmt.Fprintf(out, "%s stderr F %s", at.Format(time.RFC3339Nano), line)
		}
		if bytes.HasSuffix(line, []byte("\n")) {
			m.lines++
		}
		m.size += int64(len(line))
		_, _ = zip.Write(line) // a counter takes all
	}
	_ = zip.Close()
	m.zipped += packed.n
	return out.Flush()
}

// counter counts the bytes that it takes.
type counter struct{ n int64 }

// Write implements io.Writer.
func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return len(b), nil
}
