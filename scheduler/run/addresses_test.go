package run

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler"
)

// fakeAddresses is a pool with free addresses. Release and Keep fail while it is broken.
type fakeAddresses struct {
	free   int
	has    map[types.UID]string
	broken bool
}

func (f *fakeAddresses) Assign(_ context.Context, claims []api.AddressClaim) []api.AddressAnswer {
	answers := make([]api.AddressAnswer, len(claims))
	for i, claim := range claims {
		answers[i].UID = claim.UID
		if f.has[claim.UID] == "" && f.free == 0 {
			answers[i].Problem = "no free address"
			continue
		}
		if f.has[claim.UID] == "" {
			f.has[claim.UID] = fmt.Sprintf("10.50.0.%d", f.free)
			f.free--
		}
		answers[i].IP = f.has[claim.UID]
	}
	return answers
}

func (f *fakeAddresses) Release(_ context.Context, pod types.UID) error {
	if f.broken {
		return errors.New("etcd is away")
	}
	delete(f.has, pod)
	return nil
}

// Run implements Addresses. It has nothing to do.
func (f *fakeAddresses) Run(ctx context.Context) error { return noAddresses{}.Run(ctx) }

func (f *fakeAddresses) Keep(_ context.Context, pods []types.UID) ([]api.PodKey, error) {
	if f.broken {
		return nil, errors.New("etcd is away")
	}
	has := map[types.UID]string{}
	for _, uid := range pods {
		has[uid] = f.has[uid]
	}
	f.has = has
	return nil, nil
}

func TestEachActionOnAddressesIsAnswered(t *testing.T) {
	addresses := &fakeAddresses{free: 1, has: map[types.UID]string{}}
	assign := scheduler.AssignAddresses{Claims: []api.AddressClaim{{UID: "a", Pool: "p"}, {UID: "b", Pool: "p"}}}
	none := scheduler.AddressesAssigned{Action: assign, Answers: []api.AddressAnswer{
		{UID: "a", Problem: "this scheduler has no address pools"}, {UID: "b", Problem: "this scheduler has no address pools"}}}
	given := scheduler.AddressesAssigned{Action: assign, Answers: []api.AddressAnswer{{UID: "a", IP: "10.50.0.1"}, {UID: "b", Problem: "no free address"}}}
	for _, step := range []struct {
		addresses Addresses
		broken    bool
		act       scheduler.Action
		want      scheduler.Event
	}{
		{addresses, false, assign, given},
		{addresses, true, scheduler.ReleaseAddress{Pod: "a"}, scheduler.AddressReleased{OK: false}},
		{addresses, true, scheduler.KeepAddresses{}, scheduler.AddressReleased{OK: false}},
		{addresses, false, scheduler.KeepAddresses{Pods: []types.UID{"a"}}, scheduler.AddressReleased{OK: true}},
		{addresses, false, scheduler.ReleaseAddress{Pod: "a"}, scheduler.AddressReleased{OK: true}},
		{nil, false, assign, none},
		{nil, false, scheduler.ReleaseAddress{Pod: "a"}, scheduler.AddressReleased{OK: true}},
		{nil, false, scheduler.KeepAddresses{}, scheduler.AddressReleased{OK: true}},
	} {
		addresses.broken = step.broken
		ctx, cancel := context.WithCancel(t.Context())
		var got scheduler.Event
		a := newAddresser(step.addresses)
		a.do(step.act)
		err := a.run(ctx, func(ev scheduler.Event) error {
			got = ev
			cancel()
			return nil
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s of %T: %s", step.act, step.addresses, diff)
		}
	}
	if len(addresses.has) != 0 {
		t.Errorf("in use: %v", addresses.has)
	}
}
