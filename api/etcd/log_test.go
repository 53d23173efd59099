package etcd

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logrustest "github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/zap"
)

func TestEtcdsRecordsBecomeOursFromTheLevelOn(t *testing.T) {
	hook := logrustest.NewGlobal()
	defer logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{})
	level := zap.NewAtomicLevelAt(zap.WarnLevel)
	log := Logger(level).With(zap.String("member", "m"))
	log.Info("started")
	log.Warn("slow disk", zap.Int("ms", 900))
	log.Error("no space")
	level.SetLevel(zap.FatalLevel)
	log.Error("listener closed")

	type record struct {
		Level   logrus.Level
		Message string
		Data    logrus.Fields
	}
	var got []record
	for _, e := range hook.AllEntries() {
		got = append(got, record{e.Level, e.Message, e.Data})
	}
	want := []record{
		{logrus.WarnLevel, "slow disk", logrus.Fields{"component": "etcd", "member": "m", "ms": int64(900)}},
		{logrus.ErrorLevel, "no space", logrus.Fields{"component": "etcd", "member": "m"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
