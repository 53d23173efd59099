package membership

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/k8sm/k8sm/minion/supervise"
)

func TestServerThatIsOffIsNotMadeAndOneThatCannotBeMadeIsAnError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	broken, made := errors.New("no certificate"), 0
	newChild := func() (supervise.Child, error) {
		made++
		return supervise.Child{}, broken
	}
	if err := (Process{}).Run(ctx, "a server", newChild); err != nil || made != 0 {
		t.Errorf("a server that is off was made %d times, error %v", made, err)
	}
	if err := (Process{Enabled: true}).Run(ctx, "a server", newChild); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

func TestServerLogsAsItsControlPlaneDoes(t *testing.T) {
	for _, c := range []struct {
		log  Log
		want []string
	}{{Log{}, nil}, {Log{"debug", "json"}, []string{"--log-level=debug", "--log-format=json"}}, {Log{LogFormat: "text"}, []string{"--log-format=text"}}} {
		if got := c.log.Flags(); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q", c.log, got)
		}
	}
}
