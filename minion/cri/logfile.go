package cri

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// logFile is a log in CRI's format, open for appending whole lines.
type logFile struct {
	path string

	mu   sync.Mutex // guards file: the kubelet's reopen meets the follower's writes
	file *os.File
}

// openLog opens the log and returns where the Engine's log goes on after it.
func openLog(path string) (*logFile, position, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, position{}, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o640)
	if err != nil {
		return nil, position{}, err
	}
	p, err := recoverPosition(path, file)
	if err != nil {
		return nil, position{}, errors.Join(err, file.Close())
	}
	return &logFile{path: path, file: file}, p, nil
}

// recoverPosition reads back the end of the log, and of the one that was rotated last if that is not enough. A line that
// was cut off by a crash is removed.
func recoverPosition(path string, file *os.File) (position, error) {
	lines, complete, err := readBack(file, nil)
	if err != nil {
		return position{}, err
	}
	if cut := bytes.LastIndexByte(lines, '\n') + 1; cut < len(lines) {
		size, err := file.Seek(0, io.SeekEnd)
		if err != nil {
			return position{}, err
		}
		if err := file.Truncate(size - int64(len(lines)-cut)); err != nil {
			return position{}, err
		}
		lines = lines[:cut]
	}
	if !complete {
		if rotated := lastRotated(path); rotated != "" {
			before, err := os.Open(rotated)
			if err != nil {
				return position{}, err
			}
			defer before.Close()
			if lines, _, err = readBack(before, lines); err != nil {
				return position{}, err
			}
		}
	}
	p, _ := resumeAt(lines)
	return p, nil
}

// readBack reads ever more of the file's end, until it and the lines after it reach back far enough or it is all read.
func readBack(file *os.File, after []byte) (lines []byte, complete bool, err error) {
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, false, err
	}
	for length := min(size, 64<<10); ; length = min(size, length*4) {
		end := make([]byte, length)
		if _, err := file.ReadAt(end, size-length); err != nil && !errors.Is(err, io.EOF) {
			return nil, false, err
		}
		if length < size {
			end = end[bytes.IndexByte(end, '\n')+1:]
		}
		lines = append(end, after...)
		whole := lines[:bytes.LastIndexByte(lines, '\n')+1]
		if _, complete = resumeAt(whole); complete && len(whole) > 0 || length == size {
			return lines, complete && len(whole) > 0, nil
		}
	}
}

// lastRotated returns the youngest log that the kubelet renamed and has not compressed, or "".
func lastRotated(path string) string {
	siblings, err := filepath.Glob(globEscape.Replace(path) + ".*")
	if err != nil {
		return ""
	}
	var youngest string
	for _, sibling := range siblings {
		// The kubelet appends the time, so the names sort by age.
		if !strings.HasSuffix(sibling, ".gz") && !strings.HasSuffix(sibling, ".tmp") {
			youngest = max(youngest, sibling)
		}
	}
	return youngest
}

var globEscape = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)

// write appends whole lines.
func (l *logFile) write(lines []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.file.Write(lines)
	return err
}

// reopen goes on in a new file at the log's path.
func (l *logFile) reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	old := l.file
	l.file = file
	return old.Close()
}

func (l *logFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}

// position reads back where the Engine's log goes on after this one.
func (l *logFile) position() (position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return recoverPosition(l.path, l.file)
}
