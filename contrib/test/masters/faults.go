package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// do harms a master, and returns how to undo that.
func (m *master) do(ctx context.Context, fault string) (undo func() error, err error) {
	switch fault {
	case "kill":
		m.hold(true)
		m.signal(syscall.SIGKILL)
		return func() error { m.hold(false); return nil }, nil
	case "stop":
		m.signal(syscall.SIGSTOP)
		return func() error { m.signal(syscall.SIGCONT); return nil }, nil
	case "cut":
		down := func(state string) error {
			return errors.Join(each(ctx, [][]string{{"ip", "link", "set", m.link, state}})...)
		}
		return func() error { return down("up") }, down("down")
	case "fill":
		ballast := filepath.Join(m.dir, "ballast")
		if err := fill(ballast); err != nil {
			return nil, err
		}
		return func() error { return os.Remove(ballast) }, nil
	}
	return nil, fmt.Errorf("there is no fault %q", fault)
}

// fill writes to a file until the disk is full.
func fill(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for block := make([]byte, 1<<20); ; {
		if _, err := file.Write(block); errors.Is(err, syscall.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// harm does one thing to a master, measures what clients notice, and makes the master well again.
func (c *cluster) harm(ctx context.Context, m *master, fault string, load *load) (r result, err error) {
	load.take()
	from := time.Now()
	undo, err := m.do(ctx, fault)
	if err != nil {
		return result{}, err
	}
	r = result{fault: fault, master: m.number, kinds: c.kinds(), away: c.measure(ctx, m, from)}
	r.service = load.take()
	fmt.Println(r)
	if err := errors.Join(undo(), ctx.Err()); err != nil {
		return r, err
	}
	return r, c.settle(ctx)
}

// calm is how long everything has to be well before the next fault: a master that was away may still end parts that have lost a lease.
const calm = 8 * time.Second

// settle returns when all masters have been well for a while.
func (c *cluster) settle(ctx context.Context) error {
	var since time.Time
	return scratch.Until(ctx, startPatience, func(ctx context.Context) error {
		if err := c.well(ctx); err != nil {
			since = time.Time{}
			return err
		}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) < calm {
			return errors.New("all is well, but only since a moment ago")
		}
		return nil
	})
}

// well returns an error if a part of a master does not do its work.
func (c *cluster) well(ctx context.Context) error {
	for _, m := range c.masters {
		if err := errors.Join(m.running(), m.ready(ctx)); err != nil {
			return err
		}
		if err := write(ctx, m.kube, "well-again"); err != nil {
			return err
		}
	}
	list, err := c.masters[0].kube.DiscoveryV1().EndpointSlices(api.DNSServiceNamespace).List(ctx, metav1.ListOptions{LabelSelector: api.LabelDNSReplica})
	if err != nil {
		return err
	}
	servers := count
	if c.addOns != nil {
		servers++
		if err := c.addOns.running(); err != nil {
			return err
		}
	}
	if len(list.Items) != servers {
		return fmt.Errorf("the service of the DNS has %d servers", len(list.Items))
	}
	return nil
}
