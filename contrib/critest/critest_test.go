package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// constants is what the suite's own look like, with the neighbours that must stay as they are.
const constants = `const (
	registry = "gcr.io/k8s-staging-cri-tools/"

	testImageUserUID = registry + "test-image-user-uid"
	testLinuxImageWithDigest        = registry + "test-image-digest@sha256:9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"
	testWindowsImageWithDigest        = registry + "win-test-image-digest@sha256:0e8cc62aee4ed03eb85150eb86e5d1fd7bda705511b8951fe6507835cbd34be3"
)
`

func TestSuiteIsRedirectedToOurRegistryAndDigest(t *testing.T) {
	got, err := redirected([]byte(constants), "127.0.0.1:35001", "sha256:abc")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer("gcr.io/k8s-staging-cri-tools/", "127.0.0.1:35001/",
		"sha256:9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf", "sha256:abc").Replace(constants)
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestSuiteWithOtherConstantsIsRefused(t *testing.T) {
	for _, text := range []string{"", constants + constants, strings.Replace(constants, "test-image-digest@", "renamed@", 1)} {
		if _, err := redirected([]byte(text), "127.0.0.1:1", "sha256:abc"); err == nil {
			t.Errorf("%.40q… was taken", text)
		}
	}
}

func TestReportCountsCasesAndWhateverFailed(t *testing.T) {
	got, err := readReport(strings.NewReader(`<testsuites><testsuite>
		<testcase name="[BeforeSuite]" status="passed"/>
		<testcase name="[It] a" status="passed"/><testcase name="[It] b" status="passed"/>
		<testcase name="[It] c" status="skipped"/><testcase name="[It] d" status="pending"/>
		<testcase name="[It] e" status="failed"/><testcase name="[It] f" status="panicked"/><testcase name="[It] g" status="timedout"/>
		<testcase name="[It] h" status="interrupted"/><testcase name="[AfterSuite]" status="failed"/>
	</testsuite></testsuites>`))
	if err != nil {
		t.Fatal(err)
	}
	const want = "failed: e\nfailed: f\nfailed: g\nfailed: h\nfailed: [AfterSuite]\ncritest: 2 passed, 5 failed, 2 skipped\n"
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
}

func TestReportWithoutACaseIsNoSuccess(t *testing.T) {
	for _, report := range []string{
		``,
		`<testsuites><testsuite/></testsuites>`,
		`<testsuites><testsuite><testcase name="[BeforeSuite]" status="passed"/><testcase name="[It] a" status="skipped"/></testsuite></testsuites>`,
	} {
		if got, err := readReport(strings.NewReader(report)); err == nil {
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
	err := runChild(ctx, said, []string{"WORD=ready"}, "sh", "-c", "trap 'echo interrupted; exit 3' INT; echo $WORD; while :; do read -r x <&- 2>/dev/null; done")
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

func TestDigestIsReadFromWhatTheEngineTells(t *testing.T) {
	got, err := pushedDigest(strings.NewReader(`{"status":"Pushed","id":"a"}
{"aux":{"ID":"sha256:other"}}
{"progressDetail":{},"aux":{"Tag":"test","Digest":"sha256:abc","Size":526}}
`))
	if err != nil || got != "sha256:abc" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := pushedDigest(strings.NewReader(`{"errorDetail":{"message":"denied"},"error":"denied"}`)); err == nil {
		t.Error("a refused push went unnoticed")
	}
}

func TestOnlyUnusedSegmentsOfTheSuitesSizeAreItsOwn(t *testing.T) {
	const table = `       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap
 858245670          3   644               1048576  1227     0      0     0     0     0     0          0          0 1795379000                     0                     0
 858245671          4   644               1048576  1228     0      2     0     0     0     0          0          0 1795379000                     0                     0
 858245672          5   644               2097152  1229     0      0     0     0     0     0          0          0 1795379000                     0                     0
`
	if diff := cmp.Diff([]int{3}, abandonedSegments(table)); diff != "" {
		t.Error(diff)
	}
}

func TestProgressTellsHowManyLinesThereWere(t *testing.T) {
	var out strings.Builder
	s := &sampler{out: &out, unit: "files", every: 2}
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
	first, err := claimMachine()
	if err != nil {
		t.Skip("critest runs on this machine: ", err)
	}
	defer first.Close()
	if second, err := claimMachine(); err == nil {
		second.Close()
		t.Error("a second run was let in")
	}
}

func TestMissingRegistryIsToldWithItsRemedy(t *testing.T) {
	h := harness{build: t.TempDir(), registryProgram: "none"}
	if err := h.startRegistry(t.Context()); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "install-deps critest") {
		t.Errorf("startRegistry returned %v", err)
	}
}
