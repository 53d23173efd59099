package mesos_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/localmesos"
)

// TestPodsThatComeTogetherAreLaunchedTogether: Mesos offers what an ACCEPT has left over only a second later.
func TestPodsThatComeTogetherAreLaunchedTogether(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, func(cfg *localmesos.Config) { cfg.AllocationInterval = time.Second })
	c.schedule()
	c.createPod("first", "100m") // starts the executor
	c.wait("first", "a node", bound)
	c.eventually("an offer of what is left", func(ctx context.Context) bool {
		offers, err := c.window.Offers(ctx)
		return err == nil && len(offers) == 1
	})
	const pods = 20
	for i := range pods {
		c.createPod("p"+strconv.Itoa(i), "100m")
	}
	launches := map[string]int{} // by offer
	for i := range pods {
		launches[offerOf(c, i)]++
	}
	if alone := launches[offerOf(c, 0)] == 1; alone || len(launches) > 2 { // a tick may come between
		t.Errorf("the first of %d pods was launched alone: %t; in all in %d offers: %v", pods, alone, len(launches), launches)
	}
}

func offerOf(c *cluster, i int) string {
	c.t.Helper()
	return c.wait("p"+strconv.Itoa(i), "a node", bound).Annotations[api.AnnotationOfferID]
}
