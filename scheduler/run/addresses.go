package run

import (
	"context"
	"time"

	log "github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/run/lanes"
)

// Addresses assigns addresses from pools to pods, and stores them durably. Its methods but Run are called one at a time.
type Addresses interface {
	// Assign returns an answer for each claim, in the same order. A pod that has an address gets the same address.
	Assign(ctx context.Context, claims []api.AddressClaim) []api.AddressAnswer
	// Release frees the pod's address, if it has one.
	Release(ctx context.Context, pod types.UID) error
	// Keep frees the addresses of all pods but these, and returns the pods whose addresses it freed.
	Keep(ctx context.Context, pods []types.UID) ([]api.PodKey, error)
	// Run does what must be done beside, until ctx ends. It runs while this scheduler leads, concurrently with the other methods.
	Run(ctx context.Context) error
}

// addressTimeout bounds one action.
const addressTimeout = 15 * time.Second

// noAddresses is used without address pools. It refuses all claims.
type noAddresses struct{}

// Assign implements Addresses.
func (noAddresses) Assign(_ context.Context, claims []api.AddressClaim) []api.AddressAnswer {
	answers := make([]api.AddressAnswer, len(claims))
	for i, claim := range claims {
		answers[i] = api.AddressAnswer{UID: claim.UID, Problem: "this scheduler has no address pools"}
	}
	return answers
}

// Release implements Addresses.
func (noAddresses) Release(context.Context, types.UID) error { return nil }

// Run implements Addresses.
func (noAddresses) Run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// Keep implements Addresses.
func (noAddresses) Keep(context.Context, []types.UID) ([]api.PodKey, error) { return nil, nil }

// addresser performs the actions on addresses, one at a time.
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
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.queue.Run(ctx, 1) })
	group.Go(func() error { return a.addresses.Run(ctx) })
	return group.Wait()
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
			log.WithField("uid", act.Pod).WithError(err).Warn("cannot release the address of a finished pod, trying again")
		}
		answer = scheduler.AddressReleased{OK: err == nil}
	case scheduler.KeepAddresses:
		released, err := a.addresses.Keep(ctx, act.Pods)
		for _, pod := range released {
			log.WithField("pod", pod).Info("released the address of a pod that ended while no scheduler ran")
		}
		if err != nil {
			log.WithError(err).Warn("cannot release the addresses of finished pods, trying again")
		}
		answer = scheduler.AddressReleased{OK: err == nil}
	}
	if err := a.sink(answer); err != nil {
		log.WithError(err).Debug("cannot report the addresses: the scheduler has stopped")
	}
}
