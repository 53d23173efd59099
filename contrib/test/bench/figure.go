package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// figure has the values of one measurement, one per round. peer, if any, has as many.
type figure struct {
	name, unit string
	rounds     []float64
	peer       []float64
}

// add takes one round's duration, in milliseconds.
func (f *figure) add(d time.Duration) { f.rounds = append(f.rounds, milliseconds(d)) }

// addPeer takes the peer's duration in one round.
func (f *figure) addPeer(d time.Duration) { f.peer = append(f.peer, milliseconds(d)) }

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// print writes the figure's line, unless it has no rounds.
func (f *figure) print(out io.Writer) {
	if len(f.rounds) == 0 {
		return
	}
	var line strings.Builder
	fmt.Fprintf(&line, "BENCH %s %s %s", f.name, number(median(f.rounds)), f.unit)
	if len(f.peer) > 0 {
		fmt.Fprintf(&line, " peer=%s", number(median(f.peer)))
		if median(f.peer) != 0 {
			fmt.Fprintf(&line, " ratio=%.2f", median(f.rounds)/median(f.peer))
		}
	}
	fmt.Fprintf(&line, " rounds=%d min=%s max=%s", len(f.rounds), number(slices.Min(f.rounds)), number(slices.Max(f.rounds)))
	fmt.Fprintln(out, line.String())
}

// number formats a value with its significant digits.
func number(value float64) string {
	if value < 10 {
		return fmt.Sprintf("%.2f", value)
	}
	return fmt.Sprintf("%.1f", value)
}

// median is the middle value, or the mean of the two in the middle. values must not be empty.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
