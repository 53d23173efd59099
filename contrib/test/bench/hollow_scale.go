package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

const (
	scalePods     = 10                    // each hollow node gets when the sizes of clusters are compared
	scalePatience = 30 * time.Millisecond // for a pod: four times what it takes on an idle machine
	leaseLatest   = 20 * time.Second      // in which each lease is renewed at least once
)

// flatness measures how the rate falls from the first number of nodes to the last.
func (b *bench) flatness(ctx context.Context) error {
	var s sheet
	defer func() { s.print(os.Stdout) }() // also those of the smaller clusters, if a larger one fails
	for range b.rounds {
		rates := make([]float64, len(b.scaleNodes))
		for i, nodes := range b.scaleNodes {
			of := fleet{nodes: nodes, pods: scalePods * nodes, patience: time.Duration(scalePods*nodes) * scalePatience, idle: leaseLatest}
			result, err := b.turn(ctx, of, func(h *hollow) contender { return &k8smOnHollow{hollow: h, km: b.km} })
			if err != nil {
				return fmt.Errorf("%d hollow nodes: %w", of.nodes, err)
			}
			rates[i] = result.rate
			s.prefix = fmt.Sprintf("scale_%d_", of.nodes)
			s.add(result)
		}
		if last := len(rates) - 1; last > 0 {
			s.prefix = "scale_"
			fall := s.figure("fall", "times")
			fall.rounds = append(fall.rounds, rates[0]/rates[last])
		}
	}
	return nil
}
