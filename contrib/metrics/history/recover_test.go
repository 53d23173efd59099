package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/notifier"
	"github.com/sirupsen/logrus"
)

// again runs a test again in a process of its own, with a variable in its environment, and with namespaces of its own.
func again(t *testing.T, variable string, namespaces uintptr) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: syscall.SIGKILL}
	if namespaces != 0 && os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return cmd
}

func TestWhatIsLeftByAKillIsTakenOver(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("KILLED_DIR"); dir != "" {
		target := serveText(t, "apples 3\n")
		r := start(t, Config{Dir: dir, Jobs: []Job{target.job("fruit")}})
		r.becomes("apples", 3)
		fmt.Println("READY")
		select {} // until it is killed
	}
	dir := t.TempDir()
	cmd := again(t, "KILLED_DIR="+dir, 0)
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var read strings.Builder
	for buffer := make([]byte, 1000); !strings.Contains(read.String(), "READY"); {
		n, err := output.Read(buffer)
		read.Write(buffer[:n])
		if err != nil {
			t.Fatalf("it ended: %v\n%s", err, read.String())
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if _, err := os.Stat(filepath.Join(dir, "lock")); err != nil {
		t.Fatalf("there is no lock file: %v", err)
	}
	r := start(t, Config{Dir: dir})
	r.becomes(`last_over_time(apples[5m])`, 3)
	r.quiet()
}

// fill fills the disk of a directory, except for a number of bytes.
func fill(t *testing.T, dir string, leave int64) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(dir), "filler")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for block := make([]byte, 64<<10); len(block) > 512; {
		free, err := (&room{dir: dir}).free()
		if err != nil {
			t.Fatal(err)
		}
		if free-leave < int64(len(block)) && leave > 0 {
			break
		}
		if _, err := file.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	return path
}

// fullDisk is set in the environment of the process that fills a disk.
const fullDisk = "FULL_DISK"

func TestAFullDiskStopsNothingForGood(t *testing.T) {
	t.Parallel()
	if os.Getenv(fullDisk) == "" {
		output, err := again(t, fullDisk+"=1", syscall.CLONE_NEWNS).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
		return
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	t.Run("while it works", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, string){
			"at once": fullAtOnce, "at the start": fullAtTheStart, "within a write": fullWithinAWrite, "before chunks are written": fullBeforeChunks,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, smallDisk(t))
			})
		}
	})
	if err := nothingLeft(); err != nil {
		t.Error(err)
	}
	t.Run("at the end", func(t *testing.T) { fullAtTheEnd(t, smallDisk(t)) })
}

// smallDisk mounts a disk of 48 MiB. It returns the path of a directory on it that is not there yet.
func smallDisk(t *testing.T) string {
	t.Helper()
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=48m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	return filepath.Join(disk, "history")
}

// manySeries serves a metric that counts its scrapes, and many more series.
func manySeries(t *testing.T) *target {
	var count atomic.Int64
	return serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "apples %d\n", count.Add(1))
		for i := range 2000 {
			_, _ = fmt.Fprintf(w, "many{i=\"%d\"} %d\n", i, count.Load()*int64(i))
		}
	})
}

// pausesAndGoesOn checks what becomes of a History whose disk is full, and then is not. The series of before must be there after.
func (r *rig) pausesAndGoesOn(target *target, filler string) {
	r.t.Helper()
	r.tells("the disk of the metrics' history is full")
	scraped := target.scrapes.Load()
	r.eventually(func() error {
		if now := target.scrapes.Load(); now < scraped+3 {
			return fmt.Errorf("it scrapes no more")
		}
		return nil
	})
	if code, body := r.get("/api/v1/query?query=vector(1)"); code != http.StatusOK {
		r.t.Errorf("it answers no queries: %d %s", code, body)
	}
	if err := os.Remove(filler); err != nil {
		r.t.Fatal(err)
	}
	scraped = target.scrapes.Load()
	r.becomes(fmt.Sprintf("max(apples) > bool %d", scraped), 1)
	r.becomes("count(up == 1)", 1)
}

// fullAtOnce fills the disk while samples are written, faster than we look at it.
func fullAtOnce(t *testing.T, dir string) {
	target := manySeries(t)
	r := start(t, Config{Dir: dir, MinFree: 8 << 20, Jobs: []Job{target.job("fruit")}})
	r.becomes("count(many)", 2000)
	before := float64(target.scrapes.Load())
	r.pausesAndGoesOn(target, fill(t, dir, 0))
	r.stop()
	r2 := start(t, Config{Dir: dir, MinFree: 8 << 20})
	r2.eventually(func() error {
		got, err := r2.value("min_over_time(apples[10m])")
		if err == nil && got > before {
			err = fmt.Errorf("the oldest sample is %v, not before %v", got, before)
		}
		return err
	})
	r.quiet("the disk of the metrics' history is full", "cannot write samples")
	r2.quiet()
}

// fullAtTheStart opens a history on a full disk.
func fullAtTheStart(t *testing.T, dir string) {
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	filler := fill(t, dir, 0)
	target := manySeries(t)
	r := newRig(t, Config{Dir: dir, MinFree: 8 << 20, Jobs: []Job{target.job("fruit")}}).run()
	r.tells("the disk of the metrics' history is full")
	if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("it says %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	r.becomes("count(many)", 2000)
	r.quiet("the disk of the metrics' history is full")
}

// fullWithinAWrite lets writes fail: we are told of room that is not there.
func fullWithinAWrite(t *testing.T, dir string) {
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	s, r := openStore(t, Config{Dir: dir})
	defer closeStore(t, s)
	began := time.Now().Add(-time.Minute).Truncate(time.Second)
	put(t, s, began, 1, "apples")
	s.room.min = 0
	filler := fill(t, dir, 0)
	var names []string
	for i := range 20000 {
		names = append(names, fmt.Sprintf("pears_and_plums_%d", i))
	}
	var failed error
	for i := 0; failed == nil && i < 100; i++ {
		failed = tryPut(s, began.Add(time.Duration(1+i)*time.Second), 2, names...)
	}
	if failed == nil {
		t.Fatal("writing never failed")
	}
	r.tells("cannot write samples of metrics")
	if err := tryPut(s, time.Now(), 3, "apples"); err == nil {
		t.Error("samples are written after a half written entry")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := s.shed(context.Background()); err != nil {
		t.Fatal(err)
	}
	s2, r2 := openStore(t, Config{Dir: dir})
	s.db = s2.db
	put(t, s2, began.Add(50*time.Second), 4, "apples", "new")
	if got := samples(t, s2, began, "apples"); got != "0:1 50:4" {
		t.Errorf("there are %s", got)
	}
	r2.quiet()
}

// fullBeforeChunks fills the disk when the database has chunks to write, and does so at its next look at blocks.
func fullBeforeChunks(t *testing.T, dir string) {
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	s, r := openStore(t, Config{Dir: dir, MinFree: 8 << 20})
	began := time.Now().Add(-10 * time.Minute).Truncate(time.Second)
	var names []string
	for i := range 2000 {
		names = append(names, fmt.Sprintf("pears_%d", i))
	}
	for i := range 130 { // a chunk is full at 120
		put(t, s, began.Add(time.Duration(i)*time.Second), float64(i*i), names...)
	}
	// Chunks that are being written just now still find room.
	fill(t, dir, 3<<19)
	time.Sleep(2 * quickPace.blocks)
	filler := fill(t, dir, 0)
	time.Sleep(3 * quickPace.blocks)
	if err := tryPut(s, time.Now(), 1, "pears_0"); !errors.Is(err, errPaused) {
		t.Errorf("appending returns %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	r.eventually(func() error {
		found, err := segmentsIn(filepath.Join(dir, "chunks_head"))
		if err == nil && len(found) == 0 {
			err = errors.New("no chunks are written")
		}
		return err
	})
	put(t, s, time.Now(), 1, "pears_1999")
	closeStore(t, s)
	s, r2 := openStore(t, Config{Dir: dir, MinFree: 8 << 20})
	defer closeStore(t, s)
	if got := samples(t, s, began, "pears_1999"); strings.Count(got, ":") != 131 {
		t.Errorf("there are %d samples", strings.Count(got, ":"))
	}
	r.quiet("the disk of the metrics' history is full")
	r2.quiet()
}

// fullAtTheEnd stops on a full disk.
func fullAtTheEnd(t *testing.T, dir string) {
	target := manySeries(t)
	r := start(t, Config{Dir: dir, MinFree: 8 << 20, Jobs: []Job{target.job("fruit")}})
	r.becomes("count(many)", 2000)
	filler := fill(t, dir, 0)
	r.tells("the disk of the metrics' history is full")
	r.cancel()
	r.cancel = nil
	if err := <-r.done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
}

// setClock makes a rig's clock settable. It must not work yet.
func (r *rig) setClock() (set func(by time.Duration)) {
	var offset atomic.Int64
	r.clock.now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	return func(by time.Duration) { offset.Add(int64(by)) }
}

// appendNow appends a sample by the rig's clock, as a scrape would.
func (r *rig) appendNow(name string, value float64) error {
	return r.use(context.Background(), func(_ context.Context, s *session) error {
		return tryPut(s.store, r.clock.now(), value, name)
	})
}

// history are the values of a metric, over the time from one day to another around now.
func (r *rig) values(t *testing.T, name string) string {
	t.Helper()
	var got string
	err := r.use(context.Background(), func(_ context.Context, s *session) error {
		var values []string
		for _, sample := range strings.Fields(samplesOf(t, s.store.db, time.Now(), name)) {
			values = append(values, sample[strings.Index(sample, ":")+1:])
		}
		got = strings.Join(values, " ")
		return nil
	})
	if err != nil {
		return err.Error()
	}
	return got
}

// has waits until a metric has values.
func (r *rig) has(name, want string) {
	r.t.Helper()
	r.eventually(func() error {
		if got := r.values(r.t, name); got != want {
			return fmt.Errorf("%s has %q, want %q", name, got, want)
		}
		return nil
	})
}

// appends waits until a sample can be appended.
func (r *rig) appends(name string, value float64) {
	r.t.Helper()
	r.eventually(func() error { return r.appendNow(name, value) })
}

func TestNothingIsLostWhenTheClockJumps(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for name, by := range map[string]time.Duration{"a little": 20 * time.Minute, "hours": 5 * time.Hour, "a month": 31 * day, "ten years": 3652 * day} {
		t.Run("forward and back "+name, func(t *testing.T) {
			r := newRig(t, Config{})
			set := r.setClock()
			r.run().eventually(r.Ready)
			r.appends("apples", 1)
			set(by)
			r.appends("apples", 2)
			r.tells("machine's clock went forward")
			set(-by + time.Second)
			r.tells("machine's clock went back")
			r.appends("apples", 3)
			set(time.Second)
			r.appends("apples", 4)
			if by < maxAhead {
				r.has("apples", "1 3 4 2")
			} else {
				r.tells("ahead of the clock, as after")
				r.has("apples", "1 3 4")
				set(by) // its time comes
				r.has("apples", "1 3 4 2")
			}
			set(time.Minute)
			r.appends("apples", 5)
			set(time.Second)
			r.appends("apples", 6)
			if by < maxAhead {
				r.has("apples", "1 3 4 5 6 2")
			} else {
				r.has("apples", "1 3 4 2 5 6")
			}
		})
	}
	for name, by := range map[string]time.Duration{"hours": 5 * time.Hour, "to 1970": time.Since(time.Unix(day.Nanoseconds()/1e9, 0))} {
		t.Run("back and forward "+name, func(t *testing.T) {
			r := newRig(t, Config{})
			set := r.setClock()
			makeBlock(t, r.cfg.Dir, "peas", time.Now().Add(-8*time.Hour).Truncate(2*time.Hour), time.Now().Add(-8*time.Hour).Truncate(2*time.Hour).Add(time.Hour))
			r.run().eventually(r.Ready)
			r.appends("apples", 1)
			set(-by)
			r.tells("machine's clock went back")
			r.appends("apples", 2)
			r.has("apples", "2")
			set(by + time.Minute)
			r.has("apples", "2 1")
			r.appends("apples", 3)
			r.has("apples", "2 1 3")
			if n := strings.Count(r.values(t, "peas"), "1"); n != 60*perBlock {
				t.Errorf("of the old block are %d samples", n)
			}
		})
	}
}

func TestAClockThatIsWrongAtTheStartHidesNothingForGood(t *testing.T) {
	t.Parallel()
	dir, from := t.TempDir(), blockStart(48*time.Hour)
	makeBlock(t, dir, "peas", from, from.Add(time.Hour))
	r := newRig(t, Config{Dir: dir})
	set := r.setClock()
	set(-300 * 24 * time.Hour)
	r.run().eventually(r.Ready)
	r.tells("is ahead of the clock: it waits")
	r.appends("apples", 1)
	set(300 * 24 * time.Hour)
	r.eventually(func() error {
		if n := len(strings.Fields(r.values(t, "peas"))); n != 60*perBlock {
			return fmt.Errorf("there are %d samples", n)
		}
		return nil
	})
	r.has("apples", "1")
}

const goodRule = "groups:\n- name: fruit\n  rules:\n  - alert: Apples\n    expr: apples > 2\n    labels: {severity: page}\n"

func TestRulesThatDoNotParseStopNoOthers(t *testing.T) {
	t.Parallel()
	dir, bad, want := t.TempDir(), map[string]string{}, map[string]string{}
	for name, test := range map[string]struct{ text, want string }{
		"not YAML":       {"groups:\n- name: 'a\n", ":"},
		"unknown field":  {"groups:\n- name: a\n  rules:\n  - alert: A\n    exprr: up\n", ":5: field exprr not found"},
		"not PromQL":     {"groups:\n- name: a\n  rules:\n  - alert: A\n    expr: up\n  - alert: B\n    expr: sum(\n", `:7: group "a", rule 2, "B": could not parse expression`},
		"no expression":  {"groups:\n- name: a\n  rules:\n  - alert: A\n", ":4: "},
		"bad template":   {"groups:\n- name: a\n  rules:\n  - alert: A\n    expr: up\n    annotations:\n      x: '{{ .Foo'\n", `:4: group "a", rule 1, "A"`},
		"twice":          {"groups:\n- name: a\n- name: a\n", ":3: "},
		"a list":         {"- a\n", ":1: "},
		"not even text":  {"\x00\x01\x02", ": "},
		"too large":      {"#" + strings.Repeat("x", maxFile), ": the file is larger than 4 MiB"},
		"a bomb":         {bomb(), ":1: "},
		"two documents":  {goodRule + "---\n" + goodRule, ": the file has more than one document"},
		"no name":        {"groups:\n- name: a\n- rules: []\n", ":3: Groupname must not be empty"},
		"wrong duration": {"groups:\n- name: a\n  interval: soon\n", ""},
	} {
		bad[name] = write(t, filepath.Join(dir, fmt.Sprintf("bad%02d.yaml", len(bad))), test.text)
		want[name] = test.want
	}
	target := serveText(t, "apples 3\n")
	write(t, filepath.Join(dir, "good.yml"), goodRule)
	builtin := fstest.MapFS{"alerts.yaml": {Data: []byte("groups:\n- name: built\n  rules:\n  - record: pears\n    expr: apples * 2\n")}}
	r := newRig(t, Config{RulesDir: dir, DefaultRules: builtin, Jobs: []Job{target.job("fruit")}})
	r.pace.watch = time.Second // 4 MiB are read each time
	r.run().eventually(r.Ready)
	for name, file := range bad {
		r.tells(file)
		if line := r.telling(file)[0]; !strings.Contains(line, "error="+file+want[name]) {
			t.Errorf("of %s it says %s, not %s", name, line, want[name])
		}
	}
	r.becomes(`ALERTS{alertname="Apples",alertstate="firing"}`, 1)
	r.becomes(`pears`, 6)
	if told := r.telling("cannot use a file of rules"); len(told) != len(bad) {
		t.Errorf("of %d files it logs:\n%.3000s", len(bad), strings.Join(told, "\n"))
	}
	r.quiet("cannot use a file of rules")
}

// bomb is a YAML text that is very long once its aliases are replaced.
func bomb() string {
	text := "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
	for i := range 12 {
		text += fmt.Sprintf("a%d: &a%d [%s*a%d]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d,", i), 8), i)
	}
	return text + "groups: *a12\n"
}

func TestRulesAreReadAgain(t *testing.T) {
	t.Parallel()
	target, dir := serveText(t, "apples 3\n"), filepath.Join(t.TempDir(), "rules")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	file := write(t, filepath.Join(dir, "a.yaml"), goodRule)
	r := start(t, Config{RulesDir: dir, Jobs: []Job{target.job("fruit")}})
	r.becomes(`ALERTS{alertname="Apples"}`, 1)

	write(t, file, strings.Replace(goodRule, "apples > 2", "apples >", 1))
	other := write(t, filepath.Join(dir, "b.yaml"), strings.ReplaceAll(strings.ReplaceAll(goodRule, "Apples", "Pears"), "fruit", "pears"))
	r.tells(file + ":5: ")
	r.becomes(`ALERTS{alertname="Pears"}`, 1)
	groups := func() string { _, body := r.get("/api/v1/rules"); return body }
	if got := groups(); !strings.Contains(got, `"name":"Apples"`) {
		t.Errorf("the rules of before are gone: %s", got)
	}
	write(t, file, strings.Replace(goodRule, "Apples", "Plums", 1))
	r.becomes(`ALERTS{alertname="Plums"}`, 1)
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	r.eventually(func() error {
		if got := groups(); strings.Contains(got, `"name":"Pears"`) {
			return fmt.Errorf("the rules of a file that is gone are there: %s", got)
		}
		return nil
	})
	r.quiet(file)
	if err := os.Rename(dir, dir+".gone"); err != nil { // at once: an empty directory has no rules
		t.Fatal(err)
	}
	r.tells("cannot use a file of rules: the rules that it had before stay, and the other files are used error=" + dir + "/: ")
	if got := groups(); !strings.Contains(got, `"name":"Plums"`) {
		t.Errorf("the rules of a directory that is gone are gone: %s", got)
	}
}

func TestAnAlertmanagerThatIsAwayIsToldOnce(t *testing.T) {
	t.Parallel()
	target, dir := serveText(t, "apples 3\n"), t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), goodRule)
	received := make(chan string, 1000)
	away := atomic.Bool{}
	away.Store(true)
	manager := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" {
			t.Errorf("it comes as %s", user)
		}
		if away.Load() {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // it is stopped
		}
		received <- r.URL.Path + " " + string(body)
	}))
	t.Cleanup(manager.Close) // when it is stopped
	address := strings.Replace(manager.URL, "://", "://u:p@", 1) + "/below/"
	r := start(t, Config{
		RulesDir: dir, Jobs: []Job{target.job("fruit")}, Alertmanagers: []string{address, "http://127.0.0.1:1"},
		ExternalLabels: map[string]string{"cluster": "c"}, ExternalURL: "https://km.example/prometheus",
	})
	r.becomes(`ALERTS{alertname="Apples"}`, 1)
	for i := range 3000 { // more than may wait
		if err := r.use(context.Background(), func(_ context.Context, s *session) error { s.notifier.Send(alert(i)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	r.eventually(func() error {
		if lines := r.telling("Error sending alerts"); len(lines) != 2 {
			return fmt.Errorf("of two that are away it logs:\n%s", strings.Join(lines, "\n"))
		}
		return nil
	})
	away.Store(false)
	if err := r.use(context.Background(), func(_ context.Context, s *session) error { s.notifier.Send(alert(3000)); return nil }); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-received:
		path, body, _ := strings.Cut(got, " ")
		var alerts []struct{ Labels map[string]string }
		if err := json.Unmarshal([]byte(body), &alerts); err != nil || path != "/below/api/v2/alerts" || len(alerts) == 0 || alerts[0].Labels["cluster"] != "c" {
			t.Errorf("it gets %.300s: %v", got, err)
		}
	case <-time.After(patience):
		t.Error("it gets no alerts")
	}
	r.quiet("Error sending alerts", "queue full")
	if lines := append(r.telling("Error sending alerts"), r.telling("queue full")...); len(lines) > 4 {
		t.Errorf("it logs %d lines", len(lines))
	}
}

// alert is the alert of a number.
func alert(i int) *notifier.Alert {
	return &notifier.Alert{Labels: labels.FromStrings(labels.AlertName, "A", "i", strconv.Itoa(i)), StartsAt: time.Now(), EndsAt: time.Now().Add(time.Hour)}
}

func FuzzRuleFile(f *testing.F) {
	f.Add(goodRule)
	f.Add("groups: &a\n- *a\n")
	f.Fuzz(func(_ *testing.T, text string) {
		cfg := Config{DefaultRules: fstest.MapFS{"a.yaml": {Data: []byte(text)}}}.withDefaults()
		logger := logrus.New()
		logger.SetOutput(io.Discard)
		cfg.Log = logrus.NewEntry(logger)
		newRuleFiles(cfg).read()
	})
}
