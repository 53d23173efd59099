// Command guest is what runs on the machine of contrib/test/power: `guest run`, started by systemd, brings the cluster up, looks for
// what was acknowledged before, and writes more; `guest write` is the pod that writes lines.
//
// The machine shares the folder /host with the one that runs it. There are km, this program, the notes, and the logs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/k8sm/k8sm/contrib/test/power/notes"
)

const (
	host     = "/host"
	stateDir = "/var/lib/k8sm"
	// data is the folder of the pod's volume, on the machine and in the pod.
	data = "/var/lib/power"
	// lines is the file there.
	lines = data + "/lines"
	// address is the machine's. It has no cable: there is nobody else.
	address = "192.0.2.2/24"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	role := ""
	if len(os.Args) == 2 {
		role = os.Args[1]
	}
	var err error
	switch role {
	case "run":
		err = run(ctx)
	case "write":
		err = write(ctx)
	default:
		err = fmt.Errorf("usage: guest run|write")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "guest: %v\n", err)
		os.Exit(1)
	}
}

// run does all of a boot.
func run(ctx context.Context) error {
	if err := network(ctx); err != nil {
		return err
	}
	path := filepath.Join(host, "notes")
	known, err := notes.Read(path)
	if err != nil {
		return err
	}
	file, err := notes.Open(path)
	if err != nil {
		return err
	}
	km, err := bringUp(known.Back + 1)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- km.Wait() }()
	g := &guest{known: known, notes: file}
	work := make(chan error, 1)
	go func() { work <- g.work(ctx) }()
	select {
	case err := <-ended:
		return fmt.Errorf("km up ended: %v", err)
	case err := <-work:
		return err
	}
}

// network gives the machine an address.
func network(ctx context.Context) error {
	for _, args := range [][]string{
		{"link", "add", "dummy0", "type", "dummy"}, {"address", "add", address, "dev", "dummy0"},
		{"link", "set", "dummy0", "up"}, {"route", "add", "default", "dev", "dummy0"},
	} {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	return nil
}

// bringUp starts km up, the so-manieth time.
func bringUp(times int) (*exec.Cmd, error) {
	if err := os.MkdirAll(data, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(host, fmt.Sprintf("km-up-%d.log", times)))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(host, "km"), "--state-dir="+stateDir, "up", "--metrics=false")
	cmd.Stdout, cmd.Stderr = log, log
	return cmd, cmd.Start()
}
