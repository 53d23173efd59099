package statedir

import (
	"context"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// lookEvery is how often KeepRenewed looks at the certificates. It is more often if they last minutes.
	lookEvery = time.Minute
	looks     = 60 // at least, in the life of a certificate
	// jump is by how much a clock may differ from what it should say before that is told.
	jump = time.Minute
)

// KeepRenewed calls Renew again and again until ctx ends, and then returns nil: each certificate is issued anew when it is due. What
// fails is logged, and tried again.
func (d Dir) KeepRenewed(ctx context.Context, spec func(now time.Time) Spec) error {
	tick := time.NewTicker(max(time.Second, min(lookEvery, spec(time.Now()).Lives.leaf()/looks)))
	defer tick.Stop()
	last, told := time.Now(), ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now()
		if by := jumped(last, now); by.Abs() > jump {
			logrus.Warnf("this machine's clock was set by %s, or the machine was asleep: certificates are valid from and until times of this clock", by.Round(time.Second))
		}
		last = now
		issued, err := d.Renew(spec(now))
		if len(issued) > 0 {
			logrus.WithField("certificates", strings.Join(issued, ", ")).Info("renewed certificates")
		}
		if err == nil {
			told = ""
		} else if err.Error() != told {
			told = err.Error()
			logrus.WithError(err).Error("cannot renew certificates: trying again")
		}
	}
}

// jumped is by how much the clock was set between two readings of it.
func jumped(before, after time.Time) time.Duration {
	return after.Round(0).Sub(before.Round(0)) - after.Sub(before)
}
