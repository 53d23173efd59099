package history

import (
	"sync/atomic"
	"time"
)

const (
	// maxAhead is how far samples may be ahead of the clock. It is less than lateness, so that what follows is taken until we notice.
	maxAhead = 30 * time.Minute
	// lateness is how old a sample may be beside the newest one.
	lateness = time.Hour
	// jump is what we tell of.
	jump = time.Minute
	// holdFor is how long nothing is deleted by its age after the clock went far forward: it may go back.
	holdFor = 24 * time.Hour
)

// clock tells the time, and how the machine's clock was set meanwhile.
type clock struct {
	// now is the machine's clock.
	now func() time.Time
	// running is the time since some moment, which nobody can set.
	running func() time.Duration

	// jumped's caller owns these.
	wall time.Time
	ran  time.Duration

	held atomic.Int64 // until when nothing is deleted by its age, as running time in nanoseconds
}

// newClock returns the machine's clock.
func newClock() *clock {
	start := time.Now()
	c := &clock{now: time.Now, running: func() time.Duration { return time.Since(start) }}
	c.wall, c.ran = c.now(), c.running()
	return c
}

// jumped is by how much the clock was set forward since the last call, or back, if that is worth telling. A machine that slept looks as
// if its clock had been set forward.
func (c *clock) jumped() time.Duration {
	wall, ran := c.now().Round(0), c.running() // Round: without the monotonic time
	by := wall.Sub(c.wall.Round(0)) - (ran - c.ran)
	c.wall, c.ran = wall, ran
	if by.Abs() < jump {
		return 0
	}
	return by
}

// hold keeps samples from being deleted by their age for a day.
func (c *clock) hold() { c.held.Store(int64(c.running() + holdFor)) }

// holds reports whether samples are kept from being deleted by their age.
func (c *clock) holds() bool { return c.running() < time.Duration(c.held.Load()) }
