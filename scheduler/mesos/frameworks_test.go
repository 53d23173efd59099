package mesos_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/scheduler/mesos"
)

// operator returns an administrator's connection to the cluster's master.
func (c *cluster) operator(args ...string) *mesos.Master {
	c.t.Helper()
	var cfg mesos.Config
	fs := pflag.NewFlagSet("", pflag.PanicOnError)
	cfg.AddFlags(fs)
	principal, file := c.mesos.Credential()
	if err := fs.Parse(append([]string{"--mesos-master=" + c.mesos.MasterAddr(), "--mesos-principal=" + principal, "--mesos-secret-file=" + file}, args...)); err != nil {
		c.t.Fatal(err)
	}
	m, err := mesos.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

// ours returns the only framework that Mesos knows.
func ours(t *testing.T, m *mesos.Master) mesos.Framework {
	t.Helper()
	all, err := m.Frameworks(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("the frameworks are %+v, %v", all, err)
	}
	return all[0]
}

// TestFrameworkWhoseClusterIsLostIsEnded: its scheduler is gone, and nobody knows its id but Mesos.
func TestFrameworkWhoseClusterIsLostIsEnded(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	stop := c.schedule()
	c.createPod("old", "100m")
	c.wait("old", "a node", bound)
	admin := c.operator()
	lost := ours(t, admin)
	if !lost.Connected || lost.Tasks != 1 || lost.Name != "k8sm" || time.Since(lost.Registered) > time.Hour {
		t.Errorf("the framework is %+v", lost)
	}
	if _, err := admin.Teardown(t.Context(), lost.ID); !errors.Is(err, mesos.ErrConnected) {
		t.Errorf("with its scheduler: %v", err)
	}
	stop()
	c.eventually("the scheduler is gone", func(ctx context.Context) bool { return !ours(t, admin).Connected })
	if _, err := admin.Teardown(t.Context(), "nobody"); err == nil || !strings.Contains(err.Error(), "does not know it") {
		t.Errorf("a framework that is not there: %v", err)
	}
	ended, err := admin.Teardown(t.Context(), lost.ID)
	if err != nil || ended.Tasks != 1 {
		t.Errorf("ended %+v, %v", ended, err)
	}
	if all, err := admin.Frameworks(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("left %+v, %v", all, err)
	}
	if _, err := c.operator("--mesos-principal=stranger").Teardown(t.Context(), api.FrameworkID("x")); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("a stranger: %v", err)
	}
}
