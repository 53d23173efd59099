package mesos

import (
	"fmt"
	"testing"
	"time"

	mesos "github.com/mesos/mesos-go/api/v1/lib"
	mesossched "github.com/mesos/mesos-go/api/v1/lib/scheduler"
	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/scheduler"
)

// largeFleet is how many agents offer what they have in one event, as all do after a failover.
const largeFleet = 20_000

// offerOfAgent is an offer as a master makes it, of an agent with a dozen attributes.
func offerOfAgent(i int) mesos.Offer {
	scalar := func(name string, value float64) mesos.Resource {
		role := "*"
		return mesos.Resource{
			Name: name, Type: mesos.SCALAR.Enum(), Scalar: &mesos.Value_Scalar{Value: value},
			AllocationInfo: &mesos.Resource_AllocationInfo{Role: &role},
		}
	}
	role, path, host := "*", "/slave(1)", fmt.Sprintf("agent-%05d.example.org", i)
	ip := fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)
	offer := mesos.Offer{
		ID:             mesos.OfferID{Value: fmt.Sprintf("6f7c1a52-6d5c-4c8e-9a44-1f2b3c4d5e6f-O%d", i)},
		FrameworkID:    mesos.FrameworkID{Value: "fw-1"},
		AgentID:        mesos.AgentID{Value: fmt.Sprintf("6f7c1a52-6d5c-4c8e-9a44-1f2b3c4d5e6f-S%d", i)},
		Hostname:       host,
		URL:            &mesos.URL{Scheme: "http", Address: mesos.Address{Hostname: &host, IP: &ip, Port: 5051}, Path: &path},
		AllocationInfo: &mesos.Resource_AllocationInfo{Role: &role},
		Resources:      []mesos.Resource{scalar("cpus", 16), scalar("mem", 65536), scalar("disk", 1e6)},
	}
	ports := scalar("ports", 0)
	ports.Type, ports.Scalar = mesos.RANGES.Enum(), nil
	ports.Ranges = &mesos.Value_Ranges{Range: []mesos.Value_Range{{Begin: 31000, End: 32000}}}
	offer.Resources = append(offer.Resources, ports)
	for a := range 12 {
		offer.Attributes = append(offer.Attributes, mesos.Attribute{
			Name: fmt.Sprintf("attribute-%d", a), Type: mesos.TEXT, Text: &mesos.Value_Text{Value: fmt.Sprintf("value-%d", i%100)},
		})
	}
	return offer
}

func TestOffersOfTwentyThousandAgentsComeInOneEvent(t *testing.T) {
	offers := &mesossched.Event{Type: mesossched.Event_OFFERS, Offers: &mesossched.Event_Offers{}}
	for i := range largeFleet {
		offers.Offers.Offers = append(offers.Offers.Offers, offerOfAgent(i))
	}
	var sent time.Time
	master := newFakeMaster(t, func(_ *mesossched.Call, s stream) {
		s.send(t, subscribedEvent(15))
		sent = time.Now()
		s.send(t, offers)
		hold(s)
	})
	_, events, _ := start(t, configFor(master.URL), "")
	next(t, events, scheduler.Subscribed{Framework: "fw-1"})
	came, ok := (<-events).(scheduler.Offered)
	if !ok || len(came.Offers) != largeFleet {
		t.Fatalf("%d offers came", len(came.Offers))
	}
	t.Logf("an event of %d MiB came, and was translated, in %s", offers.Size()>>20, time.Since(sent))

	var cfg scheduler.Config
	cfg.AddFlags(pflag.NewFlagSet("", pflag.PanicOnError))
	core := scheduler.NewCore(cfg)
	now := time.Now()
	core.Step(now, scheduler.Synced{})
	core.Step(now, scheduler.Subscribed{Framework: "fw-1"})
	start := time.Now()
	nodes := core.Step(now, came)
	t.Logf("the core answered the event with %d actions in %s", len(nodes), time.Since(start))
	if len(nodes) != largeFleet {
		t.Errorf("%d actions follow, one a node", len(nodes))
	}
	start = time.Now()
	now = now.Add(time.Minute)
	acts := core.Step(now, scheduler.Tick{})
	t.Logf("a tick that gives all back took %s", time.Since(start))
	declined := 0
	for _, act := range acts {
		if d, ok := act.(scheduler.Decline); ok {
			declined += len(d.Offers)
		}
	}
	if declined != largeFleet {
		t.Errorf("%d offers were given back", declined)
	}
}
