package etcd

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// lookEvery is how often a member's database is looked at.
	lookEvery = 30 * time.Second
	// repeatAfter is how often what an operator must do is logged again.
	repeatAfter = 10 * time.Minute
	// defragmentEvery is how often the leader looks whether defragmentation pays.
	defragmentEvery = time.Hour
	// It pays if this much of the database is unused, and at least half of it: a member serves nobody meanwhile, about a second for 100 MB.
	worthBytes = 128 << 20
	// fullShare is the share of the quota above which an operator is warned.
	fullShare = 0.8
)

// Care looks after the database of one member, and, if it leads, defragments those of all, one after another.
type Care struct {
	Client *clientv3.Client
	// Member is the member's id, and Endpoint its client URL.
	Member   uint64
	Endpoint string
	// Each, if set, is called at each look.
	Each func(ctx context.Context)
}

// Run looks until ctx ends. It serves the metric of the alarm in Prometheus' default registry, which etcd serves.
func (c Care) Run(ctx context.Context) {
	full := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "k8sm_etcd_nospace", Help: "1 while this member of etcd takes no writes, because a database has reached its quota (alarm NOSPACE).",
	})
	if err := prometheus.Register(full); err == nil {
		defer prometheus.Unregister(full)
	}
	var told, swept time.Time
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if s, err := c.look(ctx); err == nil {
			problem := remedy(s)
			full.Set(0)
			if slices.Contains(s.Alarms, noSpace) {
				full.Set(1)
			}
			if problem == "" {
				told = time.Time{}
			} else if time.Since(told) > repeatAfter {
				told = time.Now()
				tell(s, problem)
			}
			if s.Role == "leader" && time.Since(swept) > defragmentEvery {
				swept = time.Now()
				if _, err := Defragment(ctx, c.Client, worthIt); err != nil && ctx.Err() == nil {
					logrus.WithError(err).Warn("etcd: cannot defragment")
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if c.Each != nil {
			c.Each(ctx)
		}
	}
}

// look asks the member for its status.
func (c Care) look(ctx context.Context) (Status, error) {
	s, _ := ask(ctx, c.Client, &etcdserverpb.Member{ID: c.Member, ClientURLs: []string{c.Endpoint}})
	if s.Role == "" {
		return s, fmt.Errorf("cannot read etcd's status: %s", s.Problem)
	}
	return s, nil
}

// noSpace is etcd's name for the alarm.
const noSpace = "NOSPACE"

// tell logs what an operator must do.
func tell(s Status, problem string) {
	log := logrus.WithFields(logrus.Fields{"size": s.Size, "inUse": s.InUse, "quota": s.Quota})
	if len(s.Alarms) > 0 {
		log.Error("etcd: " + problem)
	} else {
		log.Warn("etcd: " + problem)
	}
}

// remedy says what is wrong with a member's database and what to do; "" if nothing is.
func remedy(s Status) string {
	switch {
	case slices.Contains(s.Alarms, "CORRUPT"):
		return "a member's data differ from the others' (alarm CORRUPT): km etcd status shows which. Make it leave and join anew, or restore a snapshot"
	case slices.Contains(s.Alarms, noSpace):
		return "the database has reached its quota, and nothing can be written (alarm NOSPACE). Call km etcd defrag, which compacts, defragments and ends the alarm; " +
			"if the objects themselves need the room, raise the quota"
	case s.Quota > 0 && float64(s.InUse) > fullShare*float64(s.Quota):
		return "the database is nearly full: at its quota it takes no more writes. Delete objects, or raise the quota"
	}
	return ""
}

// Advice returns what an operator must do, once for all members.
func Advice(all []Status) (advice []string) {
	for _, s := range all {
		if text := remedy(s); text != "" && !slices.Contains(advice, text) {
			advice = append(advice, text)
		}
	}
	return advice
}

// worthIt reports whether defragmentation gives back much.
func worthIt(s Status) bool { return s.Size-s.InUse >= max(worthBytes, s.Size/2) }

// Always is for Defragment: whatever it gives back.
func Always(Status) bool { return true }

// Defragment gives the unused room in databases back to the disk, one member after another, the leader last. A member is left alone
// unless worth says so. It returns the members that it defragmented. The next one follows when the one before answers again.
func Defragment(ctx context.Context, c *clientv3.Client, worth func(Status) bool) (done []string, err error) {
	all, err := Read(ctx, c)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(a, b Status) int { return leads(a) - leads(b) })
	for _, s := range all {
		if s.Role == "" || !worth(s) {
			continue
		}
		if _, err := c.Defragment(ctx, s.ClientURLs[0]); err != nil {
			return done, fmt.Errorf("cannot defragment %s: %w", s.Name, err)
		}
		err := untilDone(ctx, "a member that was defragmented does not answer yet", func(ctx context.Context) error {
			_, err := c.Status(ctx, s.ClientURLs[0])
			return err
		})
		if err != nil {
			return done, err
		}
		logrus.WithFields(logrus.Fields{"member": s.Name, "size": s.Size, "inUse": s.InUse}).Info("etcd: defragmented a member")
		done = append(done, s.Name)
	}
	return done, nil
}

func leads(s Status) int {
	if s.Role == "leader" {
		return 1
	}
	return 0
}

// Recover makes room in a cluster that takes no writes, and ends the alarm NOSPACE. While the alarm is on, the API server cannot
// compact. Watchers list anew afterwards. The error says so if the objects themselves need the room.
func Recover(ctx context.Context, c *clientv3.Client) (done []string, err error) {
	alarms, err := c.AlarmList(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read etcd's alarms: %w", err)
	}
	full := slices.ContainsFunc(alarms.Alarms, func(a *etcdserverpb.AlarmMember) bool { return a.Alarm == etcdserverpb.AlarmType_NOSPACE })
	if full {
		if err := compact(ctx, c); err != nil {
			return nil, err
		}
	}
	if done, err = Defragment(ctx, c, Always); err != nil || !full {
		return done, err
	}
	all, err := Read(ctx, c)
	if err != nil {
		return done, err
	}
	for _, s := range all {
		if s.Quota > 0 && s.Size >= s.Quota {
			return done, fmt.Errorf("the objects of %s need %d bytes, and its quota is %d: start the members with a larger one, then call this again", s.Name, s.Size, s.Quota)
		}
	}
	for _, a := range alarms.Alarms {
		if a.Alarm == etcdserverpb.AlarmType_NOSPACE {
			if _, err := c.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
				return done, fmt.Errorf("cannot end the alarm: %w", err)
			}
		}
	}
	return done, nil
}

// compact forgets all revisions but the present one.
func compact(ctx context.Context, c *clientv3.Client) error {
	now, err := c.Get(ctx, "\x00")
	if err != nil {
		return fmt.Errorf("cannot read etcd's revision: %w", err)
	}
	if _, err := c.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		return fmt.Errorf("cannot compact etcd: %w", err)
	}
	return nil
}
