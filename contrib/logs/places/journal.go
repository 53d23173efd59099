package places

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// record is a line of the journal. Each has one of the fields.
type record struct {
	Pod *pod `json:"pod,omitempty"`
	// Version is the resource version up to which changes were taken.
	Version string `json:"version,omitempty"`
	// Blind is Places.blind in seconds since 1970.
	Blind int64 `json:"blind,omitempty"`
}

// maxSlack is how many lines more than there are pods the journal may have before it is written anew.
const maxSlack = 10_000

// journal is a file of records. It may lack the last ones after a crash: then it lacks the version after them, too.
type journal struct {
	path string
	file *os.File

	mu      sync.Mutex // guards all below
	pending []record
	lines   int
	current string // version
	written string
}

// openJournal reads the journal into p and opens it to go on.
func openJournal(path string, p *Places, now time.Time) (*journal, error) {
	j := &journal{path: path}
	if err := j.read(p); err != nil {
		return nil, err
	}
	if err := j.rewrite(p, now); err != nil {
		return nil, err
	}
	return j, nil
}

func (j *journal) read(p *Places) error {
	file, err := os.Open(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read where pods were: %w", err)
	}
	defer file.Close()
	lines := bufio.NewReader(file)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil { // the end, or a last line that a crash cut off
			return nil
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			// What comes after it may be damaged as well. All pods are listed then.
			logrus.WithError(err).Errorf("the record of where pods were, %s, is damaged: going on with what can be read of it", j.path)
			j.current = ""
			return nil
		}
		switch {
		case r.Pod != nil:
			p.know(r.Pod)
		case r.Blind > 0:
			p.blind = time.Unix(r.Blind, 0)
		default:
			j.current = r.Version
		}
	}
}

// version is the resource version up to which all is in the journal or about to be written.
func (j *journal) version() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.current
}

// reached takes that everything up to a resource version was added.
func (j *journal) reached(version string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.current = version
}

// add adds a record, which write writes.
func (j *journal) add(r record) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pending = append(j.pending, r)
}

// write writes what was added.
func (j *journal) write(p *Places, now time.Time) error {
	j.mu.Lock()
	pending := j.pending
	version := j.current
	if version != j.written {
		pending = append(pending, record{Version: version})
	}
	j.pending = nil
	j.mu.Unlock()
	if len(pending) == 0 {
		return nil
	}
	j.lines += len(pending)
	p.mu.Lock()
	many := j.lines > 2*len(p.pods)+maxSlack
	p.mu.Unlock()
	var err error
	if many {
		err = j.rewrite(p, now)
	} else {
		err = appendRecords(j.file, pending)
	}
	if err != nil { // write all anew next time: half a line may be there
		j.lines = 1 << 40
		j.mu.Lock()
		j.written = ""
		j.pending = append(j.pending, record{Version: version})
		j.mu.Unlock()
		return err
	}
	j.mu.Lock()
	j.written = version
	j.mu.Unlock()
	return nil
}

func appendRecords(file *os.File, records []record) error {
	w := bufio.NewWriter(file)
	encoder := json.NewEncoder(w)
	for _, r := range records {
		if err := encoder.Encode(r); err != nil {
			return fmt.Errorf("cannot write where pods were: %w", err)
		}
	}
	if err := errors.Join(w.Flush(), file.Sync()); err != nil {
		return fmt.Errorf("cannot write where pods were: %w", err)
	}
	return nil
}

// rewrite replaces the journal by what is still needed, and forgets pods whose lines are gone.
func (j *journal) rewrite(p *Places, now time.Time) error {
	version := j.version()
	p.mu.Lock()
	var all []record
	for uid, known := range p.pods {
		if known.Gone > 0 && now.Sub(time.Unix(known.Gone, 0)) > p.retention+24*time.Hour {
			delete(p.pods, uid)
			continue
		}
		all = append(all, record{Pod: known})
	}
	maps.DeleteFunc(p.static, func(_ static, mirror *pod) bool { return p.pods[mirror.UID] != mirror })
	if now.Before(p.blind) {
		all = append(all, record{Blind: p.blind.Unix()})
	}
	p.mu.Unlock()
	if version != "" {
		all = append(all, record{Version: version})
	}
	fresh, err := os.OpenFile(j.path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write where pods were: %w", err)
	}
	if err := appendRecords(fresh, all); err != nil {
		return errors.Join(err, fresh.Close())
	}
	if err := os.Rename(j.path+".new", j.path); err != nil {
		return errors.Join(fmt.Errorf("cannot replace the record of where pods were: %w", err), fresh.Close())
	}
	old := j.file
	j.file, j.lines = fresh, len(all)
	if old != nil {
		return old.Close()
	}
	return nil
}

func (j *journal) close() error { return j.file.Close() }
