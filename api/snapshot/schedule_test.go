package snapshot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/spf13/pflag"
)

// schedule returns one with flags.
func schedule(t *testing.T, args ...string) Schedule {
	t.Helper()
	var s Schedule
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.AddFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return s
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

func TestScheduledSnapshotsComeAndGo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	synctest.Test(t, func(t *testing.T) {
		s := schedule(t, "--snapshot-dir="+dir, "--snapshot-every=1h", "--snapshot-keep=2")
		if err := os.MkdirAll(filepath.Join(dir, tempPrefix+"killed"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "k8sm-mine.tar"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		var fails atomic.Bool
		save := func(_ context.Context, file string) (Manifest, error) {
			if fails.Load() {
				return Manifest{}, errors.New("no space left on device")
			}
			return Manifest{}, os.WriteFile(file, nil, 0o600)
		}
		ctx, cancel := context.WithCancel(t.Context())
		figures := NewFigures()
		go s.Run(ctx, figures, save)
		synctest.Wait()
		expect := func(want ...string) {
			t.Helper()
			if diff := cmp.Diff(append(want, "k8sm-mine.tar"), names(t, dir)); diff != "" {
				t.Errorf("at %s (-want +got):\n%s", time.Now().UTC(), diff)
			}
		}
		after := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		expect("k8sm-20000101T000000Z.tar")
		after(time.Hour)
		expect("k8sm-20000101T000000Z.tar", "k8sm-20000101T010000Z.tar")
		after(time.Hour)
		expect("k8sm-20000101T010000Z.tar", "k8sm-20000101T020000Z.tar")
		fails.Store(true)
		after(time.Hour)
		expect("k8sm-20000101T010000Z.tar", "k8sm-20000101T020000Z.tar")
		if failed, last := testutil.ToFloat64(figures.failed), testutil.ToFloat64(figures.last); failed != 1 || int64(last) != time.Now().Add(-time.Hour).Unix() {
			t.Errorf("%v failures, the last success at %v", failed, last)
		}
		fails.Store(false)
		after(retry)
		expect("k8sm-20000101T020000Z.tar", "k8sm-20000101T030500Z.tar")
		cancel()
		synctest.Wait()

		// Another process goes on.
		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		figures = NewFigures()
		go s.Run(ctx, figures, save)
		after(time.Hour - time.Second)
		expect("k8sm-20000101T020000Z.tar", "k8sm-20000101T030500Z.tar")
		if last := testutil.ToFloat64(figures.last); int64(last) != time.Now().Add(time.Second-time.Hour).Unix() {
			t.Errorf("the last success was at %v", last)
		}
		after(time.Second)
		expect("k8sm-20000101T030500Z.tar", "k8sm-20000101T040500Z.tar")
	})
}

func TestWrongScheduleIsRefused(t *testing.T) {
	for want, s := range map[string]Schedule{
		"--snapshot-every=0s": {Dir: "d", Keep: 1},
		"--snapshot-keep=0":   {Dir: "d", Every: time.Hour},
	} {
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := schedule(t).Validate(); err != nil {
		t.Error(err)
	}
}
