package secretkeys

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/k8sm/k8sm/api/statedir"
)

// Rotation replaces the key of a cluster's secrets.
type Rotation struct {
	Client *clientv3.Client
	// Dir is the state directory of a control plane that runs.
	Dir statedir.Dir
	// Without are the addresses of control planes that are gone for good.
	Without []string
	// Patience is how long a control plane may take to use other keys.
	Patience time.Duration
	// Running returns the hosts of API servers that run, among them such as cannot take keys over.
	Running func(context.Context) ([]string, error)
	// Rewrite writes all secrets again, and returns when all are encrypted with the key.
	Rewrite func(ctx context.Context, key Key) error

	every time.Duration // in tests
}

func (r *Rotation) store() store { return store{client: r.Client} }

// Run replaces the key: all API servers decrypt with the next one, then they encrypt with it, then all secrets are written again, then the
// former key goes. A step begins when all API servers are where the one before needs them. If Run is interrupted, all secrets can be
// read, and the next call goes on, on any control plane's machine.
func (r *Rotation) Run(ctx context.Context) error {
	if len(r.Without) > 0 {
		serving, err := r.Running(ctx)
		if err != nil {
			return err
		}
		if err := Forget(ctx, r.Client, r.Without, serving); err != nil {
			return err
		}
	}
	now, revision, err := r.start(ctx)
	if err != nil {
		return err
	}
	if now.spread() {
		if err := r.await(ctx, now); err != nil {
			return err
		}
		if now, revision, err = r.step(ctx, now.use(), revision); err != nil {
			return err
		}
	}
	if err := r.await(ctx, now); err != nil {
		return err
	}
	key, err := r.key(now)
	if err != nil {
		return err
	}
	if err := r.Rewrite(ctx, key); err != nil {
		return fmt.Errorf("%w; the old key is kept, and all secrets can be read: try again", err)
	}
	if now, _, err = r.step(ctx, now.finish(), revision); err != nil {
		return err
	}
	return r.await(ctx, now)
}

// start returns the ring of a rotation that was interrupted, or of a new one.
func (r *Rotation) start(ctx context.Context) (now ring, revision int64, err error) {
	if now, revision, err = r.store().read(ctx); err != nil || now.Next != "" {
		return now, revision, err
	}
	if revision > 0 { // nothing begins before the last one is over
		if err := r.await(ctx, now); err != nil {
			return now, 0, err
		}
	}
	here, err := Read(r.Dir)
	if err != nil {
		return now, 0, err
	}
	next := here[0] // that of an earlier km that was interrupted
	if revision > 0 || len(here) == 1 {
		if next, err = New(); err != nil {
			return now, 0, err
		}
	}
	fresh, keys := begin(here, now.Retired, next)
	if now, err = fresh.seal(r.Dir, keys); err != nil {
		return now, 0, err
	}
	revision, err = r.store().write(ctx, now, revision)
	return now, revision, err
}

// step writes the ring, whose keys are here by now.
func (r *Rotation) step(ctx context.Context, to ring, revision int64) (ring, int64, error) {
	here, err := Read(r.Dir)
	if err != nil {
		return to, 0, err
	}
	if to, err = to.seal(r.Dir, here); err != nil {
		return to, 0, err
	}
	revision, err = r.store().write(ctx, to, revision)
	return to, revision, err
}

// key is the one that encrypts, which is here by now.
func (r *Rotation) key(now ring) (Key, error) {
	here, err := Read(r.Dir)
	if err != nil {
		return Key{}, err
	}
	i := slices.IndexFunc(here, func(k Key) bool { return k.Name == now.Names[0] })
	if i < 0 {
		return Key{}, fmt.Errorf("the key %s of secrets is missing in %s", now.Names[0], r.Dir)
	}
	return here[i], nil
}

// await waits until each API server uses the ring's keys.
func (r *Rotation) await(ctx context.Context, now ring) error {
	limited, cancel := context.WithTimeout(ctx, r.Patience)
	defer cancel()
	tick := time.NewTicker(cmp.Or(r.every, followEvery/4))
	defer tick.Stop()
	told := ""
	for {
		late, err := r.late(limited, now)
		switch {
		case err == nil && len(late) == 0:
			return nil
		case err == nil && told == "":
			told = strings.Join(late, "; ")
			logrus.Debugf("waiting for API servers: %s", told)
		case err == nil:
			told = strings.Join(late, "; ")
		case told == "" || limited.Err() == nil:
			return err
		}
		select {
		case <-limited.Done():
			return errors.Join(ctx.Err(), fmt.Errorf("the change of the key waits for API servers: %s. All secrets can be read meanwhile. Start these control planes and call this again; "+
				"if one is gone for good, name it by --without", told))
		case <-tick.C:
		}
	}
}

// late says which API servers do not use the ring's keys.
func (r *Rotation) late(ctx context.Context, now ring) (late []string, err error) {
	all, _, err := r.store().reports(ctx)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(all, func(_ string, r report) bool { return r.Gone })
	running, err := r.Running(ctx)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, address := range slices.Sorted(maps.Keys(all)) {
		host, _, _ := net.SplitHostPort(address)
		known[host] = true
		has := all[address]
		switch {
		case has.Problem != "":
			late = append(late, fmt.Sprintf("%s (%s)", address, has.Problem))
		case !now.usedAs(has.Names):
			late = append(late, fmt.Sprintf("%s (it uses %s)", address, strings.Join(has.Names, ", ")))
		}
	}
	for _, host := range running {
		if !known[host] {
			late = append(late, host+" (its km is of an earlier version, which takes no keys over)")
		}
	}
	if len(all) == 0 {
		late = append(late, "none runs")
	}
	return late, nil
}
