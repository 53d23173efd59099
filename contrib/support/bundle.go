// Package support collects what somebody needs who helps with a broken cluster into one file, without secrets. Parts that do not answer
// do not keep the others out. It knows neither km's flags nor where a cluster's files are.
//
// Start reading at Write.
package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// partTimeout is how long a part may take.
	partTimeout = 30 * time.Second
	// maxPart is how many bytes of a part are kept.
	maxPart = 32 << 20
)

// Part is a file of a bundle.
type Part struct {
	// Name is its path in the bundle, such as "scheduler/queue.json".
	Name string
	// Read writes its text. If it fails, what it has written is kept.
	Read func(ctx context.Context, w io.Writer) error
}

// Write writes a bundle as a gzipped tar with all files below root, and returns what could not be read; the bundle says so, too. The error
// is that of w, or of ctx.
func Write(ctx context.Context, w io.Writer, root string, parts []Part) (failed []error, err error) {
	packed := gzip.NewWriter(w)
	b := bundle{root: root, files: tar.NewWriter(packed), now: time.Now()}
	for _, part := range parts {
		var text limited
		err := part.read(ctx, &text)
		if ctx.Err() != nil {
			return failed, ctx.Err()
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", part.Name, err))
		}
		if text.text.Len() > 0 || err == nil {
			if err := b.add(part.Name, text.text.Bytes()); err != nil {
				return failed, err
			}
		}
	}
	var said bytes.Buffer
	for _, err := range failed {
		fmt.Fprintln(&said, err)
	}
	return failed, errors.Join(b.add("failures.txt", said.Bytes()), b.files.Close(), packed.Close())
}

func (p Part) read(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, partTimeout)
	defer cancel()
	return p.Read(ctx, w)
}

type bundle struct {
	root  string
	files *tar.Writer
	now   time.Time
}

func (b bundle) add(name string, text []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: b.root + "/" + name, Mode: 0o600, Size: int64(len(text)), ModTime: b.now}
	if err := b.files.WriteHeader(header); err != nil {
		return err
	}
	_, err := b.files.Write(text)
	return err
}

// errLong ends a part that is too long.
var errLong = fmt.Errorf("only the first %d MiB are kept", maxPart>>20)

// limited is a buffer of at most maxPart bytes.
type limited struct{ text bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxPart - l.text.Len(); len(p) > room {
		n, _ := l.text.Write(p[:room])
		return n, errLong
	}
	return l.text.Write(p)
}
