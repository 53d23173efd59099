package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// scales are the sizes that are compared: five times as much of everything.
var scales = [2]fleet{
	{nodes: 1_000, pods: 10_000, patience: 5 * time.Minute},
	{nodes: 5_000, pods: 50_000, patience: 15 * time.Minute},
}

// flatness measures how the rate falls as nodes and pods become more.
func (b *bench) flatness(ctx context.Context) error {
	var s sheet
	for range b.rounds {
		var rates [2]float64
		for i, of := range scales {
			result, err := b.turn(ctx, of, func(h *hollow) contender { return &k8smOnHollow{hollow: h, km: b.km} })
			if err != nil {
				return fmt.Errorf("%d hollow nodes: %w", of.nodes, err)
			}
			rates[i] = result.rate
			s.prefix = fmt.Sprintf("scale_%d_", of.nodes)
			s.add(result)
		}
		s.prefix = "scale_"
		fall := s.figure("fall", "times")
		fall.rounds = append(fall.rounds, rates[0]/rates[1])
	}
	s.print(os.Stdout)
	return nil
}
