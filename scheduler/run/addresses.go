package run

import (
	"context"
	"time"

	log "github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/run/lanes"
)

// Addresses gives pods addresses of pools. Its methods are called one at a time; none forgets what it said when a
// scheduler ends.
type Addresses interface {
	// Assign answers each claim in its place. A pod that has the address already gets it again.
	Assign(ctx context.Context, claims []api.AddressClaim) []api.AddressAnswer
	// Release takes back what the pod has, if anything.
	Release(ctx context.Context, pod types.UID) error
	// Keep takes back what all pods but these have, and returns who had it.
	Keep(ctx context.Context, pods []types.UID) ([]api.PodKey, error)
}

// addressTimeout bounds one action on addresses.
const addressTimeout = 15 * time.Second

// noAddresses are those of a scheduler without pools.
type noAddresses struct{}

func (noAddresses) Assign(_ context.Context, claims []api.AddressClaim) []api.AddressAnswer {
	answers := make([]api.AddressAnswer, len(claims))
	for i, claim := range claims {
		answers[i] = api.AddressAnswer{UID: claim.UID, Problem: "this scheduler has no address pools"}
	}
	return answers
}

func (noAddresses) Release(context.Context, types.UID) error                { return nil }
func (noAddresses) Keep(context.Context, []types.UID) ([]api.PodKey, error) { return nil, nil }

// addresser does the actions on addresses, one after the other.
type addresser struct {
	addresses Addresses
	queue     *lanes.Lanes[scheduler.Action]
	sink      Sink
}

func newAddresser(addresses Addresses) *addresser {
	if addresses == nil {
		addresses = noAddresses{}
	}
	a := &addresser{addresses: addresses}
	a.queue = lanes.New(func(scheduler.Action) string { return "" }, a.perform)
	return a
}

func (a *addresser) do(act scheduler.Action) { a.queue.Add(act) }

func (a *addresser) run(ctx context.Context, sink Sink) error {
	a.sink = sink
	return a.queue.Run(ctx, 1)
}

func (a *addresser) perform(ctx context.Context, act scheduler.Action) {
	ctx, cancel := context.WithTimeout(ctx, addressTimeout)
	defer cancel()
	var answer scheduler.Event
	switch act := act.(type) {
	case scheduler.AssignAddresses:
		answer = scheduler.AddressesAssigned{Action: act, Answers: a.addresses.Assign(ctx, act.Claims)}
	case scheduler.ReleaseAddress:
		err := a.addresses.Release(ctx, act.Pod)
		if err != nil {
			log.WithField("uid", act.Pod).WithError(err).Warn("cannot release the address of a pod that is over; it is tried again")
		}
		answer = scheduler.AddressReleased{OK: err == nil}
	case scheduler.KeepAddresses:
		released, err := a.addresses.Keep(ctx, act.Pods)
		for _, pod := range released {
			log.WithField("pod", pod).Info("released the address of a pod that ended while nobody looked")
		}
		if err != nil {
			log.WithError(err).Warn("cannot release the addresses of pods that are over; it is tried again")
		}
		answer = scheduler.AddressReleased{OK: err == nil}
	}
	if err := a.sink(answer); err != nil {
		log.WithError(err).Debug("nobody hears what became of addresses")
	}
}
