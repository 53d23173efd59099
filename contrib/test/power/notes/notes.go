// Package notes has what the program on a machine tells outside of it, in a file of lines that is written through to the disk. It imports
// nothing of k8sm.
package notes

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// Kind is what is acknowledged.
type Kind string

// The kinds: ConfigMaps that the API server has created, lines that are on a volume, lines that the log store has.
const (
	Objects Kind = "objects"
	Volume  Kind = "volume"
	Logs    Kind = "logs"
)

// Kinds are all of them.
func Kinds() []Kind { return []Kind{Objects, Volume, Logs} }

const (
	back    = "back"
	problem = "problem"
	skipped = "skipped"
)

// Notes are what a file says.
type Notes struct {
	// Acknowledged is, by kind, the last number of which all up to it are acknowledged.
	Acknowledged map[Kind]int
	// Back is how often the cluster has come back.
	Back int
	// Problems are what was missing then.
	Problems []string
	// Skipped are the numbers of lines that were written, but not acknowledged before the power went, and never will be.
	Skipped map[int]bool
}

// Read reads a file. One that is not there has no lines.
func Read(path string) (Notes, error) {
	n := Notes{Acknowledged: map[Kind]int{}, Skipped: map[int]bool{}}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	}
	if err != nil {
		return n, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		n.add(lines.Text())
	}
	return n, lines.Err()
}

// add takes a line. The last one may be cut off; then it says nothing.
func (n *Notes) add(line string) {
	kind, text, _ := strings.Cut(line, " ")
	if kind == problem {
		n.Problems = append(n.Problems, text)
		return
	}
	number, err := strconv.Atoi(strings.TrimSuffix(text, "."))
	if err != nil || !strings.HasSuffix(text, ".") {
		return
	}
	switch kind {
	case back:
		n.Back = number
	case skipped:
		n.Skipped[number] = true
	default:
		n.Acknowledged[Kind(kind)] = max(n.Acknowledged[Kind(kind)], number)
	}
}

// Further reports whether more of each kind is acknowledged than in the notes before.
func (n Notes) Further(before Notes) bool {
	for _, kind := range Kinds() {
		if n.Acknowledged[kind] <= before.Acknowledged[kind] {
			return false
		}
	}
	return true
}

// String says how much of each kind is acknowledged.
func (n Notes) String() string {
	return fmt.Sprintf("%d objects, %d lines on a volume, %d in the log store", n.Acknowledged[Objects], n.Acknowledged[Volume], n.Acknowledged[Logs])
}

// File is where one program writes notes. Several may write to one file. Its methods may be called concurrently.
type File struct{ file *os.File }

// Open opens a file for more notes.
func Open(path string) (File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
	return File{file}, err
}

// Acknowledge notes that all of a kind up to a number is acknowledged.
func (f File) Acknowledge(kind Kind, number int) error { return f.write("%s %d.\n", kind, number) }

// Skip notes that a line will never be acknowledged.
func (f File) Skip(number int) error { return f.write("%s %d.\n", skipped, number) }

// Back notes that the cluster is back for the so-manieth time.
func (f File) Back(times int) error { return f.write("%s %d.\n", back, times) }

// Problem notes what is missing.
func (f File) Problem(format string, args ...any) error {
	return f.write(problem+" "+format+"\n", args...)
}

func (f File) write(format string, args ...any) error {
	_, err := fmt.Fprintf(f.file, format, args...)
	return err
}
