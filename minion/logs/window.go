package logs

import (
	"bytes"
	"errors"
	"io"
)

// errShrunk says that a file has fewer bytes than it had.
var errShrunk = errors.New("the file has become shorter")

// readWindow reads what is next in a file of this size into buffer, which has space for a wide window and one byte.
func (c *cursor) readWindow(file io.ReaderAt, size int64, buffer []byte) (window, error) {
	w := window{at: c.next, widest: c.widen, inside: c.within}
	length := int64(narrowWindow)
	if c.widen {
		length = wideWindow
	}
	length = min(length, size-c.next)
	w.more = size > c.next+length
	before := min(c.next, 1) // the byte before says whether a line begins here
	read := buffer[:before+length]
	if n, err := file.ReadAt(read, c.next-before); n < len(read) {
		if errors.Is(err, io.EOF) {
			err = errShrunk
		}
		return window{}, err
	}
	w.data = read[before:]
	if before > 0 && read[0] != '\n' && w.inside == nil {
		var err error
		if w.inside, err = headerBefore(file, c.next); err != nil {
			return window{}, err
		}
	}
	return w, nil
}

// headerBefore returns the header of the line that has the byte before offset.
func headerBefore(file io.ReaderAt, offset int64) (*line, error) {
	chunk := make([]byte, 4<<10)
	begin := offset
	for begin > 0 {
		part := chunk[:min(begin, int64(len(chunk)))]
		if _, err := file.ReadAt(part, begin-int64(len(part))); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if newline := bytes.LastIndexByte(part, '\n'); newline >= 0 {
			begin -= int64(len(part) - newline - 1)
			break
		}
		begin -= int64(len(part))
	}
	header := chunk[:min(offset-begin, maxHeader)]
	if _, err := file.ReadAt(header, begin); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	l, ok := parseLine(header)
	if !ok {
		return &line{}, nil
	}
	l.content = nil
	return &l, nil
}
