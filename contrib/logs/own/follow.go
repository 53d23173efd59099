package own

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/k8sm/k8sm/minion/supervise"
)

const (
	// readEvery is how often a file is looked at.
	readEvery = time.Second
	// readAtOnce is how many bytes are copied before the position is saved.
	readAtOnce = 1 << 20
)

// place is how far a file was read.
type place struct {
	Inode  uint64 `json:"inode"`
	Offset int64  `json:"offset"`
}

// follower copies the lines of a file that somebody writes and rotates. A crash may repeat the last ones.
type follower struct {
	path     string
	position string // file of the place
	to       io.Writer

	at     place
	failed bool
}

func (f *follower) run(ctx context.Context) error {
	if err := load(f.position, &f.at); err != nil {
		return err
	}
	for supervise.Sleep(ctx, readEvery) == nil {
		err := f.read()
		if err != nil && !f.failed {
			logrus.WithError(err).WithField("file", f.path).Warn("cannot store what a log file has; trying again")
		}
		f.failed = err != nil
	}
	return nil
}

// read copies what is new. The file that was read last may have another name now.
func (f *follower) read() error {
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	inode := info.Sys().(*syscall.Stat_t).Ino
	switch {
	case f.at.Inode == inode && info.Size() < f.at.Offset: // truncated
		f.at.Offset = 0
	case f.at.Inode != inode && f.at.Inode != 0:
		if err := f.finish(); err != nil {
			return err
		}
		fallthrough
	case f.at.Inode == 0:
		f.at = place{Inode: inode}
	}
	return f.copy(f.path, false)
}

// finish copies the rest of the file that was read last.
func (f *follower) finish() error {
	extension := filepath.Ext(f.path)
	others, err := filepath.Glob(strings.TrimSuffix(f.path, extension) + "*" + extension)
	if err != nil {
		return err
	}
	for _, other := range others {
		if info, err := os.Stat(other); err == nil && info.Sys().(*syscall.Stat_t).Ino == f.at.Inode {
			return f.copy(other, true)
		}
	}
	return nil // it is gone
}

// copy copies lines from where the reading ended. The last one may have no end only if nothing is written any more.
func (f *follower) copy(path string, final bool) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	buffer := make([]byte, readAtOnce)
	for {
		n, err := file.ReadAt(buffer, f.at.Offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		end := bytes.LastIndexByte(buffer[:n], '\n') + 1
		if end == 0 && (final || n == len(buffer)) {
			end = n
		}
		if end == 0 {
			return nil
		}
		if _, err := f.to.Write(buffer[:end]); err != nil {
			return err
		}
		f.at.Offset += int64(end)
		if err := save(f.position, f.at); err != nil {
			return err
		}
	}
}

// load reads a position, if there is one. One that is damaged is none.
func load(path string, position any) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read how far logs are stored: %w", err)
	}
	if err := json.Unmarshal(text, position); err != nil {
		logrus.WithError(err).Warnf("%s is damaged: beginning anew", path)
	}
	return nil
}

// save replaces a position.
func save(path string, position any) error {
	text, err := json.Marshal(position)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = os.WriteFile(path+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("cannot remember how far logs are stored: %w", err)
	}
	return nil
}
