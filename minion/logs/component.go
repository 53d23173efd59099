package logs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/k8sm/k8sm/api/logs"
)

const (
	// componentSize is how large the log of a component becomes before it is rotated.
	componentSize = 4 << 20
	// componentLine is where a line of a component's log is cut that is longer.
	componentLine = 16 << 10
)

// Component writes the log of a component of the node in the format of a container runtime, so that it is shipped as those are. It keeps
// one rotated file. Its methods may be called concurrently.
type Component struct {
	// Dir is the component's directory, below Config.Components.
	Dir string

	mu    sync.Mutex // guards all below
	file  *os.File
	size  int64
	rest  []byte // a line without its end
	lines []byte
}

// NewComponent returns the log of a component with this name, below dir.
func NewComponent(dir, name string) *Component { return &Component{Dir: filepath.Join(dir, name)} }

// Write implements io.Writer. It never fails: a log that cannot be written must not end what it is about.
func (c *Component) Write(text []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rest = append(c.rest, text...)
	c.lines = c.lines[:0]
	at := time.Now()
	for len(c.rest) > 0 {
		end := bytes.IndexByte(c.rest, '\n')
		length, next, tag := end, end+1, " F "
		if end < 0 && len(c.rest) < componentLine {
			break
		}
		if end < 0 || end > componentLine {
			length, next, tag = componentLine, componentLine, " P "
		}
		c.lines = at.UTC().AppendFormat(c.lines, time.RFC3339Nano)
		c.lines = append(append(append(c.lines, ' '), logs.Stderr...), tag...)
		c.lines = append(append(c.lines, c.rest[:length]...), '\n')
		c.rest = c.rest[next:]
		at = at.Add(1) // lines of a write keep their order
	}
	c.rest = append([]byte(nil), c.rest...)
	if len(c.lines) > 0 {
		if c.append() != nil {
			c.close() // the next write opens it anew
		}
	}
	return len(text), nil
}

func (c *Component) path() string { return filepath.Join(c.Dir, "0.log") }

// append writes the lines.
func (c *Component) append() error {
	if c.size > componentSize {
		if err := c.rotate(time.Now()); err != nil {
			return err
		}
	}
	if c.file == nil {
		if err := c.open(); err != nil {
			return err
		}
	}
	n, err := c.file.Write(c.lines)
	c.size += int64(n)
	return err
}

// open opens the file, and removes an incomplete line that a crash, or a full disk, left at its end.
func (c *Component) open() error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(c.path(), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil {
		tail := make([]byte, min(info.Size(), 2*componentLine))
		begin := info.Size() - int64(len(tail))
		if _, err = file.ReadAt(tail, begin); err == nil {
			c.size = begin + int64(bytes.LastIndexByte(tail, '\n')+1)
			err = file.Truncate(c.size)
		}
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	c.file = file
	return nil
}

// rotate renames the file, as the kubelet does with a container's, and removes the one that was renamed before.
func (c *Component) rotate(now time.Time) error {
	files, err := os.ReadDir(c.Dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if path := filepath.Join(c.Dir, f.Name()); path != c.path() {
			err = errors.Join(err, os.Remove(path))
		}
	}
	c.close()
	return errors.Join(err, os.Rename(c.path(), c.path()+"."+now.UTC().Format("20060102-150405")))
}

func (c *Component) close() {
	if c.file != nil {
		_ = c.file.Close() // a log has nothing that must be on disk
	}
	c.file, c.size = nil, 0
}
