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

	mu   sync.Mutex // guards file: reopen races with the follower's writes
	file *os.File
}

// openLog opens the log and returns the mark up to which it was copied.
func openLog(path string) (*logFile, mark, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o640)
	if err != nil {
		return nil, nil, err
	}
	m, err := recoverMark(path, file)
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return &logFile{path: path, file: file}, m, nil
}

// recoverMark reads the mark from the end of the log, and from the last rotated file if that is not enough. It removes an incomplete
// last line, which a crash left.
func recoverMark(path string, file *os.File) (mark, error) {
	lines, size, err := readBack(file)
	if err != nil {
		return nil, err
	}
	if cut := bytes.LastIndexByte(lines, '\n') + 1; cut < len(lines) {
		size -= int64(len(lines) - cut)
		if err := file.Truncate(size); err != nil {
			return nil, err
		}
		lines = lines[:cut]
	}
	m := markBehind(lines)
	rotated := lastRotated(path)
	if int64(len(lines)) < size || len(m) == maxMark || rotated == "" {
		return m, nil
	}
	before, err := os.Open(rotated)
	if err != nil {
		return nil, err
	}
	defer before.Close()
	earlier, _, err := readBack(before)
	if err != nil {
		return nil, err
	}
	return markBehind(append(earlier[:bytes.LastIndexByte(earlier, '\n')+1], lines...)), nil
}

// endOfLog is how many bytes are read back: several of the longest lines that the Engine writes.
const endOfLog = 8 * engineLineLimit

// readBack reads the end of a file, from the beginning of a line, and returns the file's size.
func readBack(file *os.File) (lines []byte, size int64, err error) {
	if size, err = file.Seek(0, io.SeekEnd); err != nil {
		return nil, 0, err
	}
	lines = make([]byte, min(size, endOfLog))
	if _, err := file.ReadAt(lines, size-int64(len(lines))); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	if int64(len(lines)) < size {
		lines = lines[bytes.IndexByte(lines, '\n')+1:]
	}
	return lines, size, nil
}

// lastRotated returns the newest log that the kubelet renamed and has not compressed, or "".
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

// reopen continues in a new file at the log's path.
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

// mark reads the mark from the end of the log.
func (l *logFile) mark() (mark, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return recoverMark(l.path, l.file)
}
