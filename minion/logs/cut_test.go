package logs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/k8sm/k8sm/api/logs"
)

// told is an entry in one line: offset, end, stream, message, and what else it has.
func told(e *logs.Entry) string {
	s := fmt.Sprintf("%d-%d %s %q", e.Offset, e.End, e.Stream, e.Message)
	for _, h := range e.Holes {
		s += fmt.Sprintf(" hole %d-%d", h.Begin, h.End)
	}
	if e.More {
		s += " more"
	}
	return s
}

// logOf makes a log of lines such as "out F hello", and returns the offsets of their ends.
func logOf(lines ...string) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(logTime + " std" + l + "\n")
	}
	return b.String()
}

func cutAll(c *cursor, text string, final bool, limit int, start *regexp.Regexp, now time.Time) (entries []string, due time.Time) {
	buffer := make([]byte, wideWindow+1)
	for {
		w, err := c.readWindow(strings.NewReader(text), int64(len(text)), buffer)
		if err != nil {
			panic(err)
		}
		before := c.next
		w.final = final
		cut := &cutter{window: w, cursor: c, limit: limit, start: start, now: now, add: func(e *logs.Entry, _ int) bool {
			entries = append(entries, told(e))
			return true
		}}
		_, due = cut.cut()
		if !w.more && (c.next == before || c.next == int64(len(text))) {
			return entries, due
		}
	}
}

func TestLinesBecomeEntries(t *testing.T) {
	const head = len(logTime) + len(" stdout F ")
	stack := regexp.MustCompile(`^\S`)
	for _, c := range []struct {
		name, text string
		final      bool
		start      *regexp.Regexp
		want       []string
	}{
		{"lines", logOf("out F a", "err F b"), false, nil, []string{`0-42 stdout "a"`, `42-84 stderr "b"`}},
		{"the last one is not complete", logOf("out F a", "err F b")[:80], false, nil, []string{`0-42 stdout "a"`}},
		{"the last one will never be complete", logOf("out F a", "err F b")[:83], true, nil, []string{`0-42 stdout "a"`, `42-83 stderr "b"`}},
		{"parts", logOf("out P a", "out P b", "out F c"), false, nil, []string{`0-126 stdout "abc"`}},
		{"parts, mixed with the other stream", logOf("out P a", "err F x", "out P b", "out F c"), false, nil,
			[]string{`42-84 stderr "x"`, `0-168 stdout "abc" hole 42-84`}},
		{"both streams have parts", logOf("out P a", "err P x", "out F b", "err F y"), false, nil,
			[]string{`0-126 stdout "ab" hole 42-84`, `42-168 stderr "xy" hole 84-126`}},
		{"parts that do not end", logOf("out P a", "out P b"), true, nil, []string{`0-84 stdout "ab" more`}},
		{"parts that may go on", logOf("out F a", "out P b"), false, nil, []string{`0-42 stdout "a"`}},
		{"parts that are too long", logOf("out P 123456789", "out P abc", "out F def"), false, nil,
			[]string{`0-50 stdout "123456789" more`, `50-138 stdout "abcdef"`}},
		{"a line that is too long", logOf("out F 1234567890abcdefghijAB", "out F x"), false, nil,
			[]string{fmt.Sprintf(`0-%d stdout "1234567890" more`, head+10), fmt.Sprintf(`%d-%d stdout "abcdefghij" more`, head+10, head+20),
				fmt.Sprintf(`%d-%d stdout "AB"`, head+20, head+23), fmt.Sprintf(`%d-%d stdout "x"`, head+23, head+23+42)}},
		{"a part that is too long", logOf("out P 1234567890ab", "out F x"), false, nil,
			[]string{`0-50 stdout "1234567890" more`, `50-53 stdout "ab" more`, `53-95 stdout "x"`}},
		{"a character is not cut through", logOf("out F 12345678é€"), false, nil, []string{`0-50 stdout "12345678é" more`, `50-54 stdout "€"`}},
		{"no runtime's line", "hello\n" + logOf("out F a"), false, nil, []string{`0-6  "hello"`, `6-48 stdout "a"`}},
		{"no runtime's line, between parts", logOf("out P a") + "hello\n" + logOf("out F b"), false, nil,
			[]string{`42-48  "hello"`, `0-90 stdout "ab" hole 42-48`}},
		{"joined lines", logOf("out F a", "out F  b", "out F  c", "out F d"), true, stack, []string{`0-128 stdout "a\n b\n c"`, `128-170 stdout "d"`}},
		{"joined lines may go on", logOf("out F a", "out F  b"), false, stack, nil},
		{"joined lines that are too long", logOf("out F 12345678", "out F  a", "out F  b"), true, stack,
			[]string{`0-49 stdout "12345678"`, `49-135 stdout " a\n b"`}},
		{"joined lines, mixed with the other stream", logOf("err F a", "out F x", "err F  b", "out F y"), true, stack,
			[]string{`42-84 stdout "x"`, `127-169 stdout "y"`, `0-127 stderr "a\n b" hole 42-84`}},
		{"joined parts", logOf("out F a", "out P  b", "out F c", "out F d"), true, stack, []string{`0-127 stdout "a\n bc"`, `127-169 stdout "d"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _ := cutAll(&cursor{}, c.text, c.final, 10, c.start, time.Now())
			if c.name == "joined lines, mixed with the other stream" {
				slices.Sort(got)
				slices.Sort(c.want)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWaitForMoreLinesEnds(t *testing.T) {
	for _, c := range []struct {
		name, text string
		start      *regexp.Regexp
		patience   time.Duration
		want       string
	}{
		{"a part", logOf("out P a"), nil, partialWait, `0-42 stdout "a" more`},
		{"joined lines", logOf("err F a", "err F  b"), regexp.MustCompile(`^\S`), multilineWait, `0-85 stderr "a\n b"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := time.Now()
			cur := &cursor{}
			got, due := cutAll(cur, c.text, false, 1000, c.start, now)
			if len(got) != 0 || due != now.Add(c.patience) {
				t.Fatalf("got %q, and is due at %s", got, due.Sub(now))
			}
			if got, _ = cutAll(cur, c.text, false, 1000, c.start, due.Add(-1)); len(got) != 0 {
				t.Fatalf("got %q too early", got)
			}
			got, due = cutAll(cur, c.text, false, 1000, c.start, due)
			if len(got) != 1 || got[0] != c.want || !due.IsZero() || cur.next != int64(len(c.text)) {
				t.Fatalf("got %q, due %s, next %d", got, due, cur.next)
			}
		})
	}
}

// What is in the store already is not sent again, and what stood around it is not joined across it.
func TestEntriesLeaveOutWhatIsAhead(t *testing.T) {
	for _, c := range []struct {
		name, text string
		ahead      ranges
		want       []string
	}{
		{"a line", logOf("out F a", "out F b", "out F c"), ranges{{Begin: 42, End: 84}}, []string{`0-42 stdout "a"`, `84-126 stdout "c"`}},
		{"the rest of the line", logOf("out P a", "out F b", "out F c"), ranges{{Begin: 42, End: 84}}, []string{`0-42 stdout "a" more`, `84-126 stdout "c"`}},
		{"a part", logOf("out P a", "out P b", "out F c"), ranges{{Begin: 42, End: 84}}, []string{`0-42 stdout "a" more`, `84-126 stdout "c"`}},
		{"the other stream", logOf("out P a", "err F b", "out F c"), ranges{{Begin: 42, End: 84}}, []string{`0-126 stdout "ac" hole 42-84`}},
		{"the beginning of a long line", logOf("out F 1234567890abcdefghijAB"), ranges{{Begin: 0, End: 60}}, []string{`60-63 stdout "AB"`}},
		{"the middle of a long line", logOf("out F 1234567890abcdefghijAB"), ranges{{Begin: 50, End: 60}},
			[]string{`0-50 stdout "1234567890" more`, `60-63 stdout "AB"`}},
		{"the middle of a long line behind a part of another", logOf("err P x", "out F 1234567890abcdefghijAB"), ranges{{Begin: 42, End: 92}},
			[]string{`0-42 stderr "x" more`, `92-102 stdout "abcdefghij" more`, `102-105 stdout "AB"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cur := &cursor{ahead: c.ahead}
			cur.next = cur.ahead.advance(0)
			got, _ := cutAll(cur, c.text, true, 10, nil, time.Now())
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if cur.next != int64(len(c.text)) || len(cur.ahead) > 0 {
				t.Errorf("next is %d of %d, ahead is %v", cur.next, len(c.text), cur.ahead)
			}
		})
	}
}

// cutting cuts a file as it grows, in batches of any size, and loses entries as a store may do that breaks down.
type cutting struct {
	random  *rand.Rand
	text    []byte
	limit   int
	start   *regexp.Regexp
	cursor  cursor
	commit  int64
	entries []logs.Entry
	buffer  []byte
	now     time.Time
}

func (c *cutting) turn(size int, final bool) {
	w, err := c.cursor.readWindow(bytes.NewReader(c.text[:size]), int64(size), c.buffer)
	if err != nil {
		panic(err)
	}
	w.final = final
	room := c.random.IntN(20)
	cut := &cutter{window: w, cursor: &c.cursor, limit: c.limit, start: c.start, now: c.now, add: func(e *logs.Entry, _ int) bool {
		if room == 0 {
			return false
		}
		room--
		taken := *e
		taken.Message, taken.Holes = bytes.Clone(e.Message), slices.Clone(e.Holes)
		c.entries = append(c.entries, taken)
		return true
	}}
	cut.cut()
	c.now = c.now.Add(time.Duration(c.random.IntN(700)) * time.Millisecond)
}

// breakDown loses some of the entries, and begins anew with what is left.
func (c *cutting) breakDown() {
	c.entries = slices.DeleteFunc(c.entries, func(e logs.Entry) bool { return e.Offset >= c.commit && c.random.IntN(3) == 0 })
	c.cursor = cursor{next: c.commit}
	for _, e := range c.entries {
		for r := range e.Covers {
			c.cursor.ahead.add(r)
		}
	}
	c.cursor.next = c.cursor.ahead.advance(c.cursor.next)
	c.cursor.ahead = slices.DeleteFunc(c.cursor.ahead, func(r logs.Range) bool { return r.End <= c.commit })
}

// check compares the entries with the file.
func (c *cutting) check(t *testing.T) {
	t.Helper()
	var covered ranges
	total := int64(0)
	for _, e := range c.entries {
		if len(e.Message) > c.limit {
			t.Fatalf("a message has %d bytes, more than %d", len(e.Message), c.limit)
		}
		for r := range e.Covers {
			covered.add(r)
			total += r.End - r.Begin
		}
	}
	if len(covered.missing(0, int64(len(c.text)))) > 0 || total != int64(len(c.text)) {
		t.Fatalf("the entries cover %v, %d bytes in all, of %d", covered, total, len(c.text))
	}
	want, got := map[logs.Stream]string{}, map[logs.Stream]string{}
	for text := range bytes.Lines(c.text) {
		text = bytes.TrimSuffix(text, []byte("\n"))
		if l, ok := parseLine(text); !ok {
			want[logs.NoStream] += string(text) + "\n"
		} else if want[l.stream] += string(l.content); !l.partial {
			want[l.stream] += "\n"
		}
	}
	slices.SortFunc(c.entries, func(a, b logs.Entry) int { return int(a.Offset - b.Offset) })
	for _, e := range c.entries {
		if got[e.Stream] += string(e.Message); !e.More {
			got[e.Stream] += "\n"
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

const alphabet = "abc é\xff\t {\"}"

// randomLog returns a log with everything that there may be.
func randomLog(random *rand.Rand, lines, longest int) []byte {
	var b bytes.Buffer
	for range lines {
		length := random.IntN(20)
		if random.IntN(10) == 0 {
			length = random.IntN(longest)
		}
		text := make([]byte, length)
		for i := range text {
			text[i] = alphabet[random.IntN(len(alphabet))]
		}
		if random.IntN(20) == 0 {
			fmt.Fprintf(&b, "%s\n", text)
			continue
		}
		fmt.Fprintf(&b, "%s %s %s %s\n", logTime, []string{"stdout", "stderr"}[random.IntN(2)], []string{"F", "F", "P"}[random.IntN(3)], text)
	}
	if b.Len() > 0 && random.IntN(3) == 0 {
		b.Truncate(b.Len() - 1)
	}
	return b.Bytes()
}

func (c *cutting) run(t *testing.T) {
	size := 0
	for turns := 0; c.cursor.next < int64(len(c.text)); turns++ {
		if turns > 100_000 {
			t.Fatalf("does not end: next is %d of %d", c.cursor.next, len(c.text))
		}
		if c.random.IntN(2) == 0 {
			size = min(len(c.text), size+c.random.IntN(2*c.limit+60))
		}
		if c.random.IntN(40) == 0 {
			c.breakDown()
		}
		size = max(size, int(c.cursor.next))
		c.turn(size, size == len(c.text))
		if c.random.IntN(10) == 0 {
			c.commit = c.cursor.next
		}
	}
	c.check(t)
}

// Each byte of a file is in one entry, and the entries make up what was written, whatever becomes of the store in between.
func TestCutFileIsWholeWhateverIsLostInBetween(t *testing.T) {
	buffer := make([]byte, wideWindow+1)
	for seed := range uint64(3000) {
		random := rand.New(rand.NewPCG(seed, 0))
		c := &cutting{random: random, limit: 300 + random.IntN(300), buffer: buffer, now: time.Now()}
		c.text = randomLog(random, random.IntN(60), 2*c.limit)
		if random.IntN(2) == 0 {
			c.start = regexp.MustCompile(`^[abc]`)
		}
		c.run(t)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// The same with messages and lines as long as they get, so that windows have to become wide.
func TestCutFileWithLongLinesIsWhole(t *testing.T) {
	buffer := make([]byte, wideWindow+1)
	for seed := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, 1))
		c := &cutting{random: random, limit: longestMessage, buffer: buffer, now: time.Now()}
		c.text = randomLog(random, 60, 3*wideWindow)
		c.run(t)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
