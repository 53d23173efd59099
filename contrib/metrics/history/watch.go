package history

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/scrape"
	"github.com/sirupsen/logrus"
)

// maxTold bounds how many targets of a job are logged at once.
const maxTold = 10

// maxErrorText bounds what is logged of an error of a target or a file, in bytes.
const maxErrorText = 300

// watch looks after the session until ctx ends. It reports whether the database must be made anew.
func (s *session) watch(ctx context.Context) (anew bool) {
	ticker := time.NewTicker(s.h.pace.watch)
	defer ticker.Stop()
	var inspected time.Time
	for {
		select {
		case <-ctx.Done():
			return false
		case <-s.h.reload:
			s.readFiles()
		case <-s.store.suspect:
			if time.Since(inspected) >= s.h.pace.inspect {
				s.store.inspect(ctx)
				inspected = time.Now()
			}
		case <-ticker.C:
			s.readFiles()
			s.tellTargets()
			if s.mustBeAnew() {
				return true
			}
		}
	}
}

// readFiles puts in force what has changed in files.
func (s *session) readFiles() {
	var err error
	if s.h.rebuilt() {
		if err = s.apply(); err == nil {
			s.h.log.Info("the changed scrape configurations are in force")
		}
	} else if s.h.rules.read() {
		if err = s.applyRules(); err == nil {
			s.h.log.Info("the changed rules are in force")
		}
	}
	if err != nil {
		s.h.complain(err)
	}
}

// complain logs an error once in a while.
func (h *History) complain(err error) {
	h.warn(err, "the metrics' history cannot work as it should")
}

// blockName is what differs in errors that are the same.
var blockName = regexp.MustCompile(`[0-9A-HJKMNP-TV-Z]{26}`)

// warn logs an error once in a while.
func (h *History) warn(err error, message string) {
	if h.seen.Fresh(blockName.ReplaceAllString(err.Error(), "")) {
		h.log.WithError(err).Warn(message)
	}
}

// mustBeAnew looks at the clock and the disk. It reports whether the database must be made anew.
func (s *session) mustBeAnew() bool {
	if by := s.h.clock.jumped(); by != 0 {
		s.tellJump(by)
	}
	if err := s.store.takeBack(); err != nil {
		s.h.complain(err)
	}
	if err := s.store.room.admit(); err != nil && !errors.Is(err, errPaused) {
		s.h.complain(err)
	}
	if err := s.store.limit.PreCreation(labels.EmptyLabels()); err != nil {
		s.h.complain(err)
	}
	if s.store.room.full.Load() {
		return false
	}
	if s.store.ahead() {
		s.h.log.Warn("the metrics' history has samples that are ahead of the clock, as after the clock went back: they wait until their time comes")
		return true
	}
	return s.store.room.broken.Load()
}

// tellJump logs that the clock was set, and keeps old samples for now: the clock may be wrong.
func (s *session) tellJump(by time.Duration) {
	log := s.h.log.WithField("by", by.Round(time.Second))
	if by < 0 {
		log.Warn("the machine's clock went back")
		return
	}
	log.Warn("the machine's clock went forward, or the machine slept")
	if by > lateness {
		s.h.clock.hold()
	}
}

// tellTargets logs which targets have begun to fail or to answer.
func (s *session) tellTargets() {
	failing := map[string]bool{}
	for job, targets := range s.scraper.TargetsActive() {
		told, untold := 0, 0
		slices.SortFunc(targets, func(a, b *scrape.Target) int { return cmp.Compare(a.URL().String(), b.URL().String()) })
		for _, target := range targets {
			key := job + " " + target.URL().String()
			log := s.h.log.WithFields(logrus.Fields{"job": job, "target": name(target)})
			err := target.LastError()
			switch was := s.h.failing[key]; {
			case errors.Is(err, errPaused) || target.Health() == scrape.HealthUnknown:
				failing[key] = was
			case err == nil && was:
				log.Info("the target answers again")
			case err != nil && !was && told < maxTold:
				log.WithField(logrus.ErrorKey, short(err.Error())).Warn("cannot scrape a target, trying again at each interval")
				told++
				failing[key] = true
			case err != nil:
				if !was {
					untold++
				}
				failing[key] = true
			}
		}
		if untold > 0 {
			s.h.log.WithField("job", job).Warnf("cannot scrape %d more targets of the job", untold)
		}
	}
	s.h.failing = failing
}

// name is a target's URL without what may be secret.
func name(target *scrape.Target) string {
	address := target.URL()
	address.RawQuery = ""
	return address.Redacted()
}

// short is an error's text, which may have parts of what a target sent.
func short(text string) string {
	if len(text) > maxErrorText {
		return strings.ToValidUTF8(text[:maxErrorText], "") + " …"
	}
	return text
}
