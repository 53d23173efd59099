package kube

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/skew"
	"github.com/k8sm/k8sm/scheduler"
)

// heard collects what the scheduler hears of servers and settings, and when it is synced.
type heard struct {
	mu   sync.Mutex // guards list
	list []string
}

func (h *heard) sink(ev scheduler.Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch ev := ev.(type) {
	case scheduler.ServersSeen:
		text := "servers"
		for _, s := range ev.Servers {
			text += " " + s.Address + "=" + s.Version
		}
		h.list = append(h.list, text)
	case scheduler.SettingsSeen:
		h.list = append(h.list, "settings "+ev.Minions.ClusterDomain)
	case scheduler.Synced:
		h.list = append(h.list, "synced")
	}
	return nil
}

func (h *heard) take() string {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	defer func() { h.list = nil }()
	return strings.Join(h.list, ", ")
}

func settingsMap(text string) *v1.ConfigMap {
	return &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: api.MinionConfigNamespace, Name: api.MinionConfigName},
		Data:       map[string]string{api.MinionConfigKey: text},
	}
}

func TestVersionsOfServersAndSettingsOfMinionsAreKnownBeforeAllElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, client := newTest(settingsMap(`{"clusterDomain":"one"}`))
		servers := []skew.Server{{Address: "a", Version: "v1.35.4"}}
		var mu sync.Mutex
		answer := func(now ...skew.Server) { mu.Lock(); defer mu.Unlock(); servers = now }
		c.AskVersions(func(context.Context) []skew.Server { mu.Lock(); defer mu.Unlock(); return slices.Clone(servers) })
		ctx, cancel := context.WithCancel(t.Context())
		ended, h := make(chan error, 1), &heard{}
		go func() { ended <- c.Run(ctx, h.sink) }()
		time.Sleep(time.Second)
		said := h.take()
		if !strings.Contains(said, "servers a=v1.35.4") || !strings.Contains(said, "settings one") || !strings.HasSuffix(said, ", synced") {
			t.Errorf("at first it hears %s", said)
		}
		time.Sleep(time.Minute)
		if said := h.take(); said != "" {
			t.Errorf("although nothing has changed it hears %s", said)
		}
		answer(skew.Server{Address: "a"}) // it is silent, and nobody else is there: what was told holds
		time.Sleep(time.Minute)
		if said := h.take(); said != "" {
			t.Errorf("of a server that tells nothing any more it hears %s", said)
		}
		answer(skew.Server{Address: "a", Version: "v1.36.3"}, skew.Server{Address: "b"})
		time.Sleep(versionsEvery + time.Second)
		if said := h.take(); said != "servers a=v1.36.3 b=" {
			t.Errorf("after an upgrade it hears %s", said)
		}
		answer(skew.Server{Address: "a", Version: "v1.36.3"}, skew.Server{Address: "b", Version: "v1.36.3"})
		time.Sleep(versionsAgain + time.Second)
		if said := h.take(); said != "servers a=v1.36.3 b=v1.36.3" {
			t.Errorf("soon after the second one answers it hears %s", said)
		}
		for _, text := range []string{"no JSON", `{"clusterDomain":"two"}`} { // what cannot be read changes nothing
			if _, err := client.CoreV1().ConfigMaps(api.MinionConfigNamespace).Update(t.Context(), settingsMap(text), metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if said := h.take(); said != "settings two" {
			t.Errorf("of new settings it hears %s", said)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestServersThatHangDelayATakeoverByASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newTest()
		c.AskVersions(func(ctx context.Context) []skew.Server { <-ctx.Done(); return []skew.Server{{Address: "a"}} })
		ctx, cancel := context.WithCancel(t.Context())
		ended, h := make(chan error, 1), &heard{}
		go func() { ended <- c.Run(ctx, h.sink) }()
		time.Sleep(firstLook + time.Second)
		if said := h.take(); said != "synced" {
			t.Errorf("it hears %s", said)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
