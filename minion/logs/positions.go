package logs

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
)

// positions are what is saved: how far each file was shipped.
type positions struct {
	Version int        `json:"version"`
	Logs    []position `json:"logs"`
}

const positionsVersion = 1

// position is a saved chain.
type position struct {
	Pod       string `json:"pod"` // the name of its directory
	Container string `json:"container"`
	Restart   int    `json:"restart"`
	// Next is the number of the next file.
	Next  int64          `json:"next"`
	Past  []string       `json:"past,omitempty"`
	Files []filePosition `json:"files"`
}

type filePosition struct {
	Number int64  `json:"number"`
	Inode  uint64 `json:"inode"`
	ID     string `json:"id,omitempty"`
	Commit int64  `json:"commit"`
	Size   int64  `json:"size"`
	// Written is when, in nanoseconds since 1970.
	Written int64 `json:"written"`
	Lost    *loss `json:"lost,omitempty"`
}

// encodePositions returns the positions of the chains as JSON.
func encodePositions(chains iter.Seq[*chain]) ([]byte, error) {
	p := positions{Version: positionsVersion}
	for c := range chains {
		at := c.place
		saved := position{Pod: at.pod, Container: at.container, Restart: at.restart, Next: c.number, Past: c.past}
		for _, f := range c.files {
			saved.Files = append(saved.Files, filePosition{
				Number: f.number, Inode: f.inode, ID: f.id, Commit: f.commit, Size: f.size, Written: f.written, Lost: f.lost,
			})
		}
		p.Logs = append(p.Logs, saved)
	}
	slices.SortFunc(p.Logs, func(a, b position) int {
		return cmp.Or(cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Container, b.Container), cmp.Compare(a.Restart, b.Restart))
	})
	return json.Marshal(p)
}

// decodePositions returns the chains that were saved. Their files have neither content nor a name until they are found. Data is nil if
// nothing was saved.
func decodePositions(data []byte) (chains []*chain, err error) {
	if data == nil {
		return nil, nil
	}
	var p positions
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields() // a newer version may mean something else by them
	if err := decoder.Decode(&p); err != nil {
		return nil, err
	}
	if p.Version != positionsVersion {
		return nil, fmt.Errorf("they have the version %d, this is %d", p.Version, positionsVersion)
	}
	for _, saved := range p.Logs {
		c, ok := newChain(place{pod: saved.Pod, container: saved.Container, restart: saved.Restart}, saved.Next)
		if !ok {
			return nil, fmt.Errorf("there cannot be a log %s/%s", saved.Pod, saved.Container)
		}
		c.past = saved.Past
		for _, s := range saved.Files {
			if s.Commit < 0 || s.Size < 0 {
				return nil, fmt.Errorf("the log %s/%s has a negative position", saved.Pod, saved.Container)
			}
			c.files = append(c.files, &file{
				number: s.Number, inode: s.Inode, id: s.ID, commit: s.Commit, held: s.Commit, size: s.Size, written: s.Written, lost: s.Lost,
				cursor: cursor{next: s.Commit},
			})
			c.files[len(c.files)-1].saves()
		}
		chains = append(chains, c)
	}
	return chains, nil
}

// newChain returns a chain without files, the first of which will have this number; false if no pod can have it.
func newChain(at place, first int64) (*chain, bool) {
	source, ok := sourceOf(at.pod)
	if !ok || !containerDirectory.MatchString(at.container) {
		return nil, false
	}
	source.Container, source.Restart = at.container, at.restart
	return &chain{place: at, source: source, number: first}, true
}
