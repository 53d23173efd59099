package kube

import (
	"context"
	"fmt"
	"slices"
	"time"

	log "github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/skew"
	"github.com/k8sm/k8sm/scheduler"
)

// Versions returns the API servers that the cluster has, with the versions that they tell. It returns what it knows when ctx ends.
type Versions func(ctx context.Context) []skew.Server

const (
	// firstLook is how long a scheduler that begins to lead waits for the versions: a takeover is to be quick.
	firstLook = time.Second
	// versionsEvery is how often servers are asked, and versionsAgain how soon again while one has told none.
	versionsEvery, versionsAgain = 10 * time.Second, 2 * time.Second
)

// AskVersions has Run send the API servers' versions. Call it before Run.
func (c *Cluster) AskVersions(ask Versions) { c.versions = ask }

// look asks for the versions, sends them if they have changed, and returns them. While no server has told its version, it sends nothing.
func (c *Cluster) look(ctx context.Context, limit time.Duration, before []skew.Server) []skew.Server {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	now := c.versions(ctx)
	told := slices.ContainsFunc(now, func(s skew.Server) bool { return s.Version != "" })
	if !told || slices.Equal(now, before) {
		return before
	}
	for _, s := range now {
		log.WithFields(log.Fields{"server": s.Address, "version": s.Version}).Info("API server")
	}
	c.tell(scheduler.ServersSeen{Servers: now})
	return now
}

// keepLooking looks for changed versions until ctx ends.
func (c *Cluster) keepLooking(ctx context.Context, seen []skew.Server) {
	for {
		pause := versionsEvery
		if len(seen) == 0 || skew.Unknown(seen) != "" {
			pause = versionsAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		seen = c.look(ctx, callTimeout, seen)
	}
}

// watchSettings sends the configuration of minions, and each change of it. synced becomes true when what there is has been sent.
func (c *Cluster) watchSettings(ctx context.Context) (synced cache.InformerSynced, stop func(), err error) {
	factory := informers.NewSharedInformerFactoryWithOptions(c.client, 0, informers.WithNamespace(api.MinionConfigNamespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, api.MinionConfigName).String()
		}))
	registration, err := factory.Core().V1().ConfigMaps().Informer().AddEventHandler(handlerOf(
		func(object *v1.ConfigMap) {
			minions, err := api.ReadMinionConfig(object.Data)
			if err != nil {
				log.WithError(err).Error("cannot take over the settings of minions")
				c.events.Event(object, v1.EventTypeWarning, "SettingsRefused", "cannot take over the settings of minions: "+err.Error())
				return
			}
			c.tell(scheduler.SettingsSeen{Minions: minions})
		},
		func(*v1.ConfigMap) {}, // the control plane makes it again
	))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot watch the settings of minions: %w", err)
	}
	factory.Start(ctx.Done())
	return registration.HasSynced, factory.Shutdown, nil
}
