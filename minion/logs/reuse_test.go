package logs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/api/logs"
)

func (w *world) inodeOf(path string) uint64 {
	w.t.Helper()
	var st unix.Stat_t
	w.must(unix.Lstat(path, &st))
	return st.Ino
}

// save saves the positions, and returns them.
func (w *world) save() []byte {
	w.t.Helper()
	w.must(w.s.save(w.now))
	data, err := w.s.spool.load()
	w.must(err)
	return data
}

// dieAfter replaces the minion by one that has these positions, in which the first file has this inode.
func (w *world) dieAfter(positions []byte, inode uint64) {
	w.t.Helper()
	saved, err := decodePositions(positions)
	w.must(err)
	saved[0].files[0].inode = inode
	positions, err = encodePositions(slices.Values(saved))
	w.must(err)
	w.must(w.s.spool.save(positions))
	w.restart()
}

// at returns lines of a log at another second.
func at(second string, lines ...string) string {
	return strings.ReplaceAll(logOf(lines...), ":05.", ":"+second+".")
}

// A file system gives the inode of a deleted file to the next one that is made. If the minion dies before it has saved that it is done
// with the deleted file, the new one does not take its place: that would be before files that are older.
func TestInodeThatIsUsedAgainKeepsTheOrderOfFiles(t *testing.T) {
	for _, c := range []struct{ name, first, want string }{
		{"of a file with lines", at("05", "out F a"), "a\nb\nc\nd\n"},
		{"of an empty file", "", "b\nc\nd\n"},
		{"of a file with an incomplete line", strings.TrimSuffix(at("05", "out F a"), "\n"), "a\nb\nc\nd\n"},
	} {
		for _, isBThere := range []bool{true, false} {
			for _, isEmpty := range []bool{true, false} {
				t.Run(c.name, func(t *testing.T) {
					w, dir := calm(t)
					path := filepath.Join(dir, "0.log")
					a, b := path+".20260102-000001", path+".20260102-000002"
					w.put(path, c.first)
					w.scan()
					w.must(os.Rename(path, a))
					w.put(path, at("06", "out F b"))
					w.ship()
					before := w.save()
					w.must(os.Remove(a))
					w.ship() // and is done with it
					w.must(os.Rename(path, b))
					third := at("07", "out F c")
					if isEmpty {
						third = ""
					}
					w.put(path, third)
					if !isBThere {
						w.must(os.Remove(b))
					}
					w.down = true
					w.dieAfter(before, w.inodeOf(path))
					w.put(path, at("07", "out F c"))
					w.must(os.Rename(path, path+".20260102-000003"))
					w.scan()
					w.put(path, at("08", "out F d"))
					w.ship()
					w.down = false
					w.now = w.now.Add(time.Minute)
					w.ship()
					if diff := cmp.Diff(map[logs.Stream]string{logs.Stdout: c.want}, w.stored()); diff != "" {
						t.Errorf("the file before is there %t, the file was empty at first %t: %s", isBThere, isEmpty, diff)
					}
				})
			}
		}
	}
}

// The same, with older files that the minion had not saved yet.
func TestInodeThatIsUsedAgainComesAfterNewFiles(t *testing.T) {
	w, dir := calm(t)
	path := filepath.Join(dir, "0.log")
	w.put(path, "")
	w.scan()
	before := w.save()
	w.must(w.s.spool.remove(place{"shop_web-0_uid-0", "app", 0}, 1))
	w.must(os.Remove(path))
	w.put(path+".20260102-000002", at("06", "out F b"))
	w.put(path, at("07", "out F c"))
	w.dieAfter(before, w.inodeOf(path))
	w.ship()
	if diff := cmp.Diff(map[logs.Stream]string{logs.Stdout: "b\nc\n"}, w.stored()); diff != "" {
		t.Error(diff)
	}
}

// The spool lists file 10 before file 9. The next file is the 11th all the same.
func TestNumbersGoOnWithoutPositions(t *testing.T) {
	w, dir := calm(t)
	path := filepath.Join(dir, "0.log")
	want := ""
	for i := range 12 {
		if i == 10 {
			w.must(os.Remove(w.s.spool.positions()))
			w.restart()
		}
		w.down = i < 10
		w.put(path, at(fmt.Sprintf("%02d", 10+i), fmt.Sprintf("out F %d", i)))
		w.scan()
		w.must(os.Rename(path, fmt.Sprintf("%s.20260102-%06d", path, i)))
		want += fmt.Sprintf("%d\n", i)
		if i == 9 {
			w.save()
		}
	}
	w.now = w.now.Add(time.Minute)
	w.ship()
	if diff := cmp.Diff(map[logs.Stream]string{logs.Stdout: want}, w.stored()); diff != "" {
		t.Error(diff)
	}
	if n := w.s.logs.find(place{"shop_web-0_uid-0", "app", 0}).number; n != 13 {
		t.Errorf("the next file gets the number %d, want 13", n)
	}
}

// A file that was lost does not hold up those behind it while a file of another run has its inode.
func TestInodeThatIsUsedAgainHidesNoLoss(t *testing.T) {
	w, dir := calm(t)
	path := filepath.Join(dir, "0.log")
	w.down = true
	w.put(path, at("05", "out F a"))
	w.scan()
	w.must(os.Rename(path, path+".20260102-000001"))
	w.put(path, at("06", "out F b"))
	w.ship()
	w.must(os.Remove(path + ".20260102-000001"))
	before := w.save()
	w.must(w.s.spool.remove(place{"shop_web-0_uid-0", "app", 0}, 1)) // as if it could not be linked
	second := filepath.Join(dir, "1.log")
	w.put(second, at("07", "out F c"))
	w.dieAfter(before, w.inodeOf(second))
	w.down = false
	w.now = w.now.Add(time.Minute)
	w.ship()
	want := map[containerRun]map[logs.Stream]string{
		{"uid-0", "app", 0}: {logs.Stdout: "b\n", logs.NoStream: "<lost 0 lines, 42 bytes: the file was deleted before it was shipped>\n"},
		{"uid-0", "app", 1}: {logs.Stdout: "c\n"},
	}
	if diff := cmp.Diff(want, w.store.texts(t)); diff != "" {
		t.Error(diff)
	}
}

// What was shipped of a file has to be in the saved positions before the file is removed from the spool: else its number could become
// another one's.
func TestNumberIsUsedOnceAlthoughPositionsAreOld(t *testing.T) {
	w, dir := calm(t)
	path := filepath.Join(dir, "0.log")
	w.put(path, "")
	w.scan()
	w.save()
	w.s.spool.before = func(change string) error {
		if change == "write" {
			return errors.New("input/output error")
		}
		return nil
	}
	w.put(path, at("05", "out F a"))
	w.ship()
	w.must(os.RemoveAll(filepath.Dir(dir)))
	w.ship()
	link := w.s.spool.path(place{"shop_web-0_uid-0", "app", 0}, 1)
	if _, err := os.Lstat(link); err != nil {
		t.Error(err)
	}
	w.s.spool.before = func(string) error { return nil }
	w.ship()
	if _, err := os.Lstat(link); err == nil {
		t.Error("the file is still there although it is done with")
	}
}

// A runtime that was killed while it wrote a line cuts off what there is of it. If the saved positions still have it, it would be taken for
// lost once the file is removed.
func TestLineThatTheRuntimeCutsOffIsNotLost(t *testing.T) {
	w, dir := calm(t)
	path := filepath.Join(dir, "0.log")
	w.put(path, logOf("out F a"))
	whole := int64(len(logOf("out F a")))
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	w.must(err)
	_, err = file.WriteString(strings.TrimSuffix(logOf("out F b"), "\n"))
	w.must(err)
	w.ship()
	before := w.save()
	w.must(file.Truncate(whole))
	w.must(file.Close())
	w.scan()
	w.must(os.RemoveAll(filepath.Dir(dir)))
	w.s.spool.before = func(change string) error {
		if change == "write" {
			return errors.New("input/output error")
		}
		return nil
	}
	w.ship()
	w.must(os.WriteFile(w.s.spool.positions(), before, 0o600))
	w.restart()
	w.ship()
	if diff := cmp.Diff(map[logs.Stream]string{logs.Stdout: "a\n"}, w.stored()); diff != "" {
		t.Error(diff)
	}
}

// While the disk is full, a new file cannot be linked, and those before it may be done with. Its number is the next one all the same.
func TestNumberIsUsedOnceAlthoughTheDiskIsFull(t *testing.T) {
	w, dir := calm(t)
	path := filepath.Join(dir, "0.log")
	w.put(path, at("05", "out F a"))
	w.ship()
	w.diskFull = true
	w.must(os.Rename(path, path+".20260102-000001"))
	w.put(path, at("06", "out F b"))
	w.must(os.Remove(path + ".20260102-000001"))
	w.ship()
	w.diskFull = false
	w.ship()
	for _, s := range w.store.all() {
		if want := map[string]int64{"a": 1, "b": 2}[string(s.entry.Message)]; s.source.Number != want {
			t.Errorf("%q has the number %d, want %d", s.entry.Message, s.source.Number, want)
		}
	}
	if got := w.stored()[logs.Stdout]; got != "a\nb\n" {
		t.Errorf("the store has %q", got)
	}
}
