package cli

import (
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/k8sm/k8sm/scheduler"
	"github.com/k8sm/k8sm/scheduler/status"
)

var offers = kind[scheduler.LiveOffer]{
	singular: "offer", plural: "offers", prefix: "offer", short: "Show the Mesos offers that the scheduler holds",
	read: (*status.Client).Offers,
	columns: []metav1.TableColumnDefinition{
		column("Offer"), column("Host"), column("Role"), column("Expires in"), column("Resources"), column("Maintenance"), wide("Node"), wide("Agent"),
	},
	rows: func(now time.Time, o scheduler.LiveOffer) [][]any {
		return [][]any{{string(o.ID), o.Hostname, o.Role, duration.HumanDuration(max(0, o.Until.Sub(now))), o.Resources, or(o.Unavailable),
			or(o.Node), string(o.Agent)}}
	},
	name:  func(o scheduler.LiveOffer) string { return string(o.ID) },
	names: func(o scheduler.LiveOffer) []string { return []string{string(o.ID), o.Hostname} },
}

func offersCommand(c *common) *cobra.Command { return showCommand(c, offers) }
