package logs

import (
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// tree has the chains by the directories of pods and containers, and restarts.
type tree map[string]map[string]map[int]*chain

func (t tree) find(at place) *chain { return t[at.pod][at.container][at.restart] }

func (t tree) add(c *chain) {
	at := c.place
	if t[at.pod] == nil {
		t[at.pod] = map[string]map[int]*chain{}
	}
	if t[at.pod][at.container] == nil {
		t[at.pod][at.container] = map[int]*chain{}
	}
	t[at.pod][at.container][at.restart] = c
}

func (t tree) remove(c *chain) {
	at := c.place
	delete(t[at.pod][at.container], at.restart)
	if len(t[at.pod][at.container]) == 0 {
		delete(t[at.pod], at.container)
	}
	if len(t[at.pod]) == 0 {
		delete(t, at.pod)
	}
}

// all are all chains.
func (t tree) all() iter.Seq[*chain] {
	return func(yield func(*chain) bool) {
		for _, containers := range t {
			for _, restarts := range containers {
				for _, c := range restarts {
					if !yield(c) {
						return
					}
				}
			}
		}
	}
}

// restore takes the saved positions and the files in the spool.
func (s *shipping) restore(now time.Time) error {
	data, err := s.spool.load()
	if err != nil {
		return err
	}
	saved, err := decodePositions(data)
	if err != nil {
		s.log.WithError(err).Error("cannot read up to where logs were shipped: moved that aside, and asking the log store")
		if err := s.spool.setAside(); err != nil {
			return err
		}
	}
	next := map[place]int64{}
	for _, c := range saved {
		next[c.place] = c.number
		s.logs.add(c)
	}
	var finished []spooled
	err = s.spool.list(func(p place, number int64, info inodeInfo) {
		if !s.restoreFile(p, number, next[p], info, now) {
			finished = append(finished, spooled{p, number})
		}
	})
	for _, f := range finished {
		err = errors.Join(err, s.spool.remove(f.place, f.number))
	}
	return err
}

// spooled is a file in the spool.
type spooled struct {
	place
	number int64
}

// restoreFile takes a file in the spool. Next is the number of the next file when positions were saved. It returns false if the file was
// done with.
func (s *shipping) restoreFile(p place, number, next int64, info inodeInfo, now time.Time) bool {
	c := s.logs.find(p)
	if c == nil {
		var ok bool
		if c, ok = newChain(p, s.first); !ok {
			return true // leave it alone
		}
		s.logs.add(c)
	}
	i := slices.IndexFunc(c.files, func(f *file) bool { return f.number >= number })
	if i < 0 {
		i = len(c.files)
	}
	switch {
	case i < len(c.files) && c.files[i].number == number && c.files[i].inode == info.inode && c.files[i].lost == nil:
		f := c.files[i]
		f.linked = true
		if info.size == 0 && info.names == 1 && f.size > 0 { // finish emptied it
			f.emptied, f.commit, f.next = true, f.size, f.size
		}
		f.seen(info, now)
		return true
	case number < next:
		return false
	default: // it was linked after positions were saved
		f := newFile(number, info)
		f.linked = true
		f.seen(info, now)
		c.files, c.number = slices.Insert(c.files, i, f), max(c.number, number+1) // 10 is listed before 9
		return true
	}
}

// scan reads all directories of logs.
func (s *shipping) scan(now time.Time) error {
	s.watch(s.Logs)
	root, err := os.Open(s.Logs)
	if err != nil {
		return err
	}
	defer root.Close()
	pods, err := root.Readdirnames(-1)
	if err != nil {
		return err
	}
	var failed error
	there := map[string]bool{componentsPod: true}
	for _, pod := range pods {
		if podDirectory.MatchString(pod) {
			there[pod] = true
			failed = errors.Join(failed, s.scanPod(root, pod, now))
		}
	}
	if s.Components != "" {
		failed = errors.Join(failed, s.scanPod(root, componentsPod, now))
	}
	for pod := range s.logs {
		if !there[pod] {
			s.podGone(pod, now)
		}
	}
	s.giveUpMissing(now)
	return failed
}

// path is the directory of a pod's logs, or of the components'.
func (s *shipping) path(pod string) string {
	if pod == componentsPod {
		return s.Components
	}
	return filepath.Join(s.Logs, pod)
}

// openPod opens the directory of a pod's logs, or of the components'. It follows no symbolic link.
func (s *shipping) openPod(root *os.File, pod string) (*os.File, error) {
	if pod == componentsPod {
		return os.Open(s.Components)
	}
	return openDirectory(root, pod)
}

// scanPod reads a pod's directories.
func (s *shipping) scanPod(root *os.File, pod string, now time.Time) error {
	s.watch(s.path(pod))
	dir, err := s.openPod(root, pod)
	if isGone(err) {
		s.podGone(pod, now)
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	containers, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	var failed error
	for _, container := range containers {
		if containerDirectory.MatchString(container) {
			failed = errors.Join(failed, s.scanContainer(dir, pod, container, now))
		}
	}
	for container, restarts := range s.logs[pod] {
		if !slices.Contains(containers, container) {
			s.absent(restarts, nil, nil, now)
		}
	}
	return failed
}

func (s *shipping) podGone(pod string, now time.Time) {
	for _, restarts := range s.logs[pod] {
		s.absent(restarts, nil, nil, now)
	}
}

// isGone reports whether a directory is gone, or is none that the kubelet made.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// scanContainer reads a container's directory.
func (s *shipping) scanContainer(podDir *os.File, pod, container string, now time.Time) error {
	s.watch(filepath.Join(s.path(pod), container))
	dir, err := openDirectory(podDir, container)
	if isGone(err) {
		s.absent(s.logs[pod][container], nil, nil, now)
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	files, odd, err := readLogs(dir)
	if err != nil {
		return err
	}
	for _, name := range odd {
		s.sayOdd(dir, name)
	}
	known := make([]*file, len(files))
	for i, f := range files {
		if c := s.logs[pod][container][f.restart]; c != nil {
			if known[i], err = c.recognize(s.spool, dir, files, known, i); err != nil {
				return err
			}
		}
	}
	s.absent(s.logs[pod][container], files, known, now)
	for i, f := range files {
		// Numbers are in the order of files, so those behind one that cannot be linked wait for it.
		if err := s.meet(dir, place{pod: pod, container: container, restart: f.restart}, f, known[i], now); err != nil {
			return err
		}
	}
	return nil
}

// recognize returns the file of the chain that files[i] of a directory is, nil if it is a new one. known are those that the files before
// it are.
//
// A file of which only the positions are left may have been deleted, and its inode may be that of a new file. That one must not take the
// other one's number: it would come before files that are older.
func (c *chain) recognize(spool *spool, dir *os.File, files []found, known []*file, i int) (*file, error) {
	for j, f := range slices.Backward(c.files) {
		if f.inode != files[i].inode || f.lost != nil {
			continue
		}
		same, err := f.linked, error(nil)
		switch {
		case same:
		case f.id == "":
			same = f.commit == 0 && c.isInOrder(j, files, known, i)
		default:
			same, err = beginsAs(dir, files[i], f.id, spool.mostNames())
		}
		if same || err != nil {
			return f, err
		}
	}
	return nil, nil
}

// isInOrder reports whether files[i] of a directory can be the chain's file j: there are no new files before it, and behind it are all
// those that come after it. Older files are deleted before newer ones.
func (c *chain) isInOrder(j int, files []found, known []*file, i int) bool {
	for k, f := range files[:i] {
		if f.restart == c.place.restart && (known[k] == nil || known[k].number > c.files[j].number) {
			return false
		}
	}
	for _, f := range c.files[j+1:] {
		if !slices.ContainsFunc(files[i+1:], func(behind found) bool { return behind.inode == f.inode }) {
			return false
		}
	}
	return true
}

// beginsAs reports whether a file has the fingerprint of the id. If it has become another file, or one that must not be read, it may
// have: meet finds that out.
func beginsAs(dir *os.File, met found, id string, mostNames uint64) (bool, error) {
	content, info, err := openRegular(dir, met.name, mostNames)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotOurs) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer content.Close()
	print, err := fingerprint(info.inode, content, true) // if the id is of a whole file, nothing follows
	return info.inode != met.inode || hasPrint(id, print), err
}

// giveUpMissing gives up files of which only the positions are left.
func (s *shipping) giveUpMissing(now time.Time) {
	for c := range s.logs.all() {
		for _, f := range slices.Clone(c.files) {
			if f.lost == nil && !f.linked && !f.gone.IsZero() {
				s.lose(c, f, droppedMissing, now)
			}
		}
	}
}

// maxOdd bounds what is remembered, and said, about odd files.
const maxOdd = 1000

// sayOdd says once that a file is none of a container runtime's.
func (s *shipping) sayOdd(dir *os.File, name string) {
	path := filepath.Join(dir.Name(), name)
	if !s.odd[path] && len(s.odd) < maxOdd {
		s.odd[path] = true
		s.log.WithField("file", path).Warn("not shipping a file in the directory of a container's logs: it is no plain file, or has other names")
	}
}

// absent marks the chains and files that are no more in the directory of their container, where these files are, as far as they are known.
func (s *shipping) absent(restarts map[int]*chain, files []found, there []*file, now time.Time) {
	for _, c := range restarts {
		c.gone = !slices.ContainsFunc(files, func(f found) bool { return f.restart == c.place.restart })
		for _, f := range c.files {
			if f.gone.IsZero() && !slices.Contains(there, f) {
				f.gone = now
				s.wake(c)
			}
		}
	}
}

// meet takes a file in the directory of its container. f is what is known of it, nil if it is new.
func (s *shipping) meet(dir *os.File, at place, met found, f *file, now time.Time) error {
	c := s.logs.find(at)
	if c == nil {
		c, _ = newChain(at, s.first) // the names were checked
	}
	if f != nil && f.linked {
		f.gone = time.Time{}
		s.grown(c, f, met.inodeInfo, now)
		return nil
	}
	if met.names > 1 && met.names >= s.spool.mostNames() { // it has no name in this spool
		s.sayOdd(dir, met.name)
		return nil
	}
	number := c.number
	if f != nil {
		number = f.number
	}
	info, err := s.spool.link(dir, met.name, at, number)
	switch {
	case errors.Is(err, errNotOurs):
		s.sayOdd(dir, met.name)
		return nil
	case errors.Is(err, fs.ErrNotExist): // renamed or deleted in between, so the directory will be read again
		return nil
	case err != nil:
		return err
	case info.inode != met.inode:
		return s.spool.remove(at, number)
	}
	if f == nil {
		f = c.add(info)
		s.logs.add(c)
	}
	f.linked, f.gone = true, time.Time{}
	s.dirty = true
	s.grown(c, f, info, now)
	return nil
}

// grown takes what a file is now.
func (s *shipping) grown(c *chain, f *file, info inodeInfo, now time.Time) {
	f.seen(info, now)
	if f.size != f.next || f.shrunk {
		s.wake(c)
	}
}
