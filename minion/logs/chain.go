package logs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/k8sm/k8sm/api/logs"
)

// chain is the log of one run of a container: the files that it was written to, one after the other, as the kubelet rotates them.
type chain struct {
	place  place
	source logs.Source // without File and Number
	files  []*file     // by number
	number int64       // of the next file
	// past are ids of earlier files, the newest last.
	past []string
	// gone is set when its files have no name in the directory of the container. Until then its number counts, even if it has no files:
	// there may be one that cannot be linked.
	gone bool

	queued bool
	// due is when to read it again, although there may be nothing new; zero if that is not needed.
	due time.Time
	// faulty is set while its files cannot be read, so that this is said once.
	faulty bool
	// refused is set when the store does not take it, so that this is said once.
	refused bool
	// notBefore is when to read it again after a failure.
	notBefore           time.Time
	isWaiting, isAsking bool
	join                pattern
}

// maxPast is how many ids of earlier files a chain remembers. An inode is used again soon or not at all.
const maxPast = 8

// file is one file of a chain.
type file struct {
	cursor
	number int64
	inode  uint64
	// id is logs.FileID.File; "" until the file has a first line.
	id      string
	size    int64 // as last seen
	checked int64 // the size when the fingerprint was last checked
	written int64 // when, as last seen, in nanoseconds since 1970

	linked bool // it has a name in the spool
	shrunk bool // it has become shorter than what was sent
	// emptied is set when the content was sent and removed, and the name is still there.
	emptied bool
	gone    time.Time // since when it has no name in the directory of the container; zero if it has one

	// commit is the offset up to which all is in the store, on its disk.
	commit int64
	// settled is the size that the saved positions have, if they say that all of that is in the store; negative otherwise.
	settled int64
	// known says that ahead has all that the store holds. held is up to where it does meanwhile.
	known bool
	held  int64
	// epoch changes whenever what was sent before is in doubt.
	epoch int
	// lost is set when the content is gone.
	lost *loss
	// behind is when the first byte beyond commit was seen, at mark.
	behind time.Time
	mark   int64
}

// loss is content that is gone.
type loss struct {
	Reason string `json:"reason"`
	// Lines counts the lines, 0 if that is not known.
	Lines int64 `json:"lines,omitempty"`
	// Others counts bytes of other files, which were behind this one.
	Others int64 `json:"others,omitempty"`
	// Counted is set when the metrics have it.
	Counted bool `json:"counted,omitempty"`
}

// printLength is how many bytes of a file's first line make its fingerprint. With its time that is unique.
const printLength = 1024

// fingerprint returns what a file has as its id; "" if it has no first line yet. Nothing follows in a final one.
func fingerprint(inode uint64, content io.ReaderAt, final bool) (string, error) {
	var buffer [printLength]byte
	n, err := content.ReadAt(buffer[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	head := buffer[:n]
	if newline := bytes.IndexByte(head, '\n'); newline >= 0 {
		head = head[:newline+1]
	} else if n < printLength && !final || n == 0 {
		return "", nil
	}
	sum := sha256.Sum256(head)
	return fmt.Sprintf("%x-%016x", inode, binary.BigEndian.Uint64(sum[:])), nil
}

// hasPrint reports whether a file with this id has this fingerprint. Ids of files with the same fingerprint have a number behind it.
func hasPrint(id, print string) bool { return id == print || strings.HasPrefix(id, print+"-") }

// nameFile gives the file its id, which no other file of the chain has or had.
func (c *chain) nameFile(f *file, print string) {
	f.id = print
	for i := 2; slices.Contains(c.past, f.id) || slices.ContainsFunc(c.files, func(o *file) bool { return o != f && o.id == f.id }); i++ {
		f.id = fmt.Sprintf("%s-%d", print, i)
	}
}

// newFile returns a file of which nothing was shipped.
func newFile(number int64, info inodeInfo) *file {
	return &file{number: number, inode: info.inode, size: info.size, written: info.written, settled: -1}
}

// add adds a file at the end of the chain.
func (c *chain) add(info inodeInfo) *file {
	f := newFile(c.number, info)
	c.number++
	c.files = append(c.files, f)
	return f
}

// lostID is the id of a file that was lost before it had one.
const lostID = "lost"

// remove removes a file, and remembers its id.
func (c *chain) remove(f *file) {
	c.files = slices.DeleteFunc(c.files, func(o *file) bool { return o == f })
	if f.id != "" && f.id != lostID {
		c.past = append(c.past, f.id)
		c.past = c.past[max(0, len(c.past)-maxPast):]
	}
}

// isFinal reports whether nothing will be written to a file any more: the next one is being written, or it was deleted.
func (c *chain) isFinal(i int) bool {
	return !c.files[i].gone.IsZero() || i+1 < len(c.files) && c.files[i+1].size > 0
}

// reading returns the index of the file that is to be read, negative if all is read. A file is read when those before it are. One that
// has become shorter is read, too, which will find that out.
func (c *chain) reading() int {
	return slices.IndexFunc(c.files, func(f *file) bool { return f.next != f.size || f.shrunk })
}

// seen takes the file's size.
func (f *file) seen(info inodeInfo, now time.Time) {
	if f.emptied {
		return
	}
	if f.shrunk = f.shrunk || info.size < f.next; f.shrunk {
		return
	}
	f.size, f.written = info.size, info.written
	if f.size > f.commit && f.behind.IsZero() {
		f.behind, f.mark = now, f.size
	}
}

// commits moves the commit.
func (f *file) commits(to int64, now time.Time) {
	f.commit = max(f.commit, to)
	switch {
	case f.commit >= f.size:
		f.behind = time.Time{}
	case f.commit >= f.mark: // what is behind now was written since then
		f.behind, f.mark = now, f.size
	}
}

// saves takes that the positions were saved.
func (f *file) saves() {
	if f.settled = -1; f.commit == f.size {
		f.settled = f.size
	}
}

// isSettled reports whether the saved positions say that all of the file is in the store.
func (f *file) isSettled() bool { return f.settled == f.size }

// isSent reports whether all of the file is sent, and on the disk of the store.
func (f *file) isSent() bool { return f.commit >= f.size }

// doubt forgets what was sent since the commit.
func (f *file) doubt() {
	f.cursor = cursor{next: f.commit}
	f.known, f.held = false, f.commit
	f.epoch++
}

// sourceOf returns where the file's entries come from.
func (c *chain) sourceOf(f *file) logs.Source {
	s := c.source
	s.File, s.Number = f.id, f.number
	return s
}

// lostEntry returns an entry in the place of content that is gone. It has the file's first ranges that are in no entry, as many as an
// entry may have.
func (f *file) lostEntry() *logs.Entry {
	missing := f.ahead.missing(f.next, f.size)
	all := len(missing) <= logs.MaxHoles+1
	missing = missing[:min(len(missing), logs.MaxHoles+1)]
	last := missing[len(missing)-1]
	e := &logs.Entry{Time: f.written, Offset: missing[0].Begin, End: last.End, Lost: &logs.Lost{Bytes: missing.size(), Why: whys[f.lost.Reason]}}
	for i, m := range missing[1:] {
		e.Holes = append(e.Holes, logs.Range{Begin: missing[i].End, End: m.Begin})
	}
	if all {
		e.Lost.Lines = f.lost.Lines
		e.Lost.Bytes += f.lost.Others
	}
	return e
}
