package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const report = `<testsuites><testsuite>
	<testcase name="[BeforeSuite]" status="passed"/>
	<testcase name="[It] a" status="passed"/><testcase name="[It] b" status="passed"/>
	<testcase name="[It] c" status="skipped"/><testcase name="[It] d" status="pending"/>
	<testcase name="[It] e" status="failed"><failure message="
no route
to host" type="failed">more</failure></testcase>
	<testcase name="[It] f" status="panicked"><error message="nil map"/></testcase><testcase name="[It] g" status="timedout"/>
	<testcase name="[It] h" status="interrupted"/><testcase name="[AfterSuite]" status="failed"/>
</testsuite></testsuites>`

func TestReportCountsCasesAndWhateverFailed(t *testing.T) {
	got, err := ReadReport(strings.NewReader(report), nil)
	if err != nil {
		t.Fatal(err)
	}
	const want = "failed: e: no route\nfailed: f: nil map\nfailed: g\nfailed: h\nfailed: [AfterSuite]\ncritest: 2 passed, 5 failed, 2 skipped\n"
	if diff := cmp.Diff(want, got.Summary("critest")); diff != "" {
		t.Error(diff)
	}
}

func TestReportCountsWantedCasesOnlyButEveryFailure(t *testing.T) {
	got, err := ReadReport(strings.NewReader(report), func(name string) bool { return name == "a" || name == "c" })
	if err != nil {
		t.Fatal(err)
	}
	if got.Passed != 1 || got.Skipped != 1 || len(got.Failed) != 5 {
		t.Errorf("counted %+v", got)
	}
}

func TestReportWithoutACaseIsNoSuccess(t *testing.T) {
	for _, report := range []string{
		``,
		`<testsuites><testsuite/></testsuites>`,
		`<testsuites><testsuite><testcase name="[BeforeSuite]" status="passed"/><testcase name="[It] a" status="skipped"/></testsuite></testsuites>`,
	} {
		if got, err := ReadReport(strings.NewReader(report), nil); err == nil {
			t.Errorf("%q was read as %v", report, got)
		}
	}
}

func TestRegistryAddressIsFoundInItsLogThoughCutInPieces(t *testing.T) {
	var log strings.Builder
	w := &addressWriter{out: &log, found: make(chan string, 1)}
	pieces := []string{"level=info msg=\"redis not configured\"\nlevel=info msg=\"listening on 127.0", ".0.1:4", "0123\" go.version=go1\n",
		"msg=\"listening on 127.0.0.1:1\"\n"}
	for i, piece := range pieces {
		if i < 2 && len(w.found) > 0 {
			t.Fatalf("found an address before piece %d", i)
		}
		if _, err := w.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-w.found; got != "127.0.0.1:40123" {
		t.Errorf("found %q", got)
	}
	if log.String() != strings.Join(pieces, "") {
		t.Error("the log is not whole")
	}
}

func TestChildIsInterruptedWhenItsTimeIsOver(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	said := &firstLine{out: cancel}
	err := RunChild(ctx, said, []string{"WORD=ready"}, "sh", "-c", "trap 'echo interrupted; exit 3' INT; echo $WORD; while :; do read -r x <&- 2>/dev/null; done")
	if err != nil || said.text != "ready\ninterrupted\n" {
		t.Errorf("the child said %q and ended with %v", said.text, err)
	}
}

// firstLine calls out when it is written to.
type firstLine struct {
	text string
	out  func()
}

func (f *firstLine) Write(p []byte) (int, error) {
	f.text += string(p)
	f.out()
	return len(p), nil
}

func TestProgressTellsHowManyLinesThereWere(t *testing.T) {
	var out strings.Builder
	s := &Sampler{Out: &out, Unit: "files", Every: 2}
	for _, text := range []string{"a\nb", "\nc\nd\n", "e\n"} {
		if _, err := s.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff("  2 files\n  4 files\n", out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestSecondRunOnAMachineIsRefused(t *testing.T) {
	name := fmt.Sprintf("suite-test-%d", os.Getpid())
	first, err := ClaimMachine(name)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if second, err := ClaimMachine(name); err == nil {
		second.Close()
		t.Error("a second run was let in")
	}
}

func TestMissingRegistryIsToldWithItsRemedy(t *testing.T) {
	dir := t.TempDir()
	_, err := StartRegistry(t.Context(), filepath.Join(dir, "none"), dir, filepath.Join(dir, "log"))
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "install-deps critest") {
		t.Errorf("StartRegistry returned %v", err)
	}
}
