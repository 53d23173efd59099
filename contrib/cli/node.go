package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/k8sm/k8sm/contrib/up/machines"
)

// nodeCommand simulates failures of the machines of `km up --nodes`.
func nodeCommand(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "node", Short: "Cut off, slow down or stop a node of km up --nodes",
		Long: `Simulates failures of a node of "km up --nodes=N", to see what happens to its pods. The next km up undoes them. Needs root.`,
	}
	rate := "1M"
	var bits resource.Quantity
	slow := nodeFault(c, "slow", "Limit the bandwidth of the node's network, in each direction", func(m *machines.Machine) error {
		return m.Slow(uint64(bits.Value()))
	})
	slow.PreRunE = func(*cobra.Command, []string) (err error) {
		if bits, err = resource.ParseQuantity(rate); err != nil || bits.Sign() <= 0 {
			return usage(fmt.Errorf("cannot use --rate=%s: give bits per second, such as 1M or 500k", rate))
		}
		return nil
	}
	slow.Flags().StringVar(&rate, "rate", rate, "bits per second, such as 1M or 500k")
	cmd.AddCommand(slow,
		nodeFault(c, "cut", "Disconnect the node from the network; it keeps running", (*machines.Machine).Cut),
		nodeFault(c, "heal", "Undo cut and slow", (*machines.Machine).Heal),
		nodeFault(c, "stop", "Stop (SIGSTOP) all processes of the node, containers too, and disconnect it, like a machine that hangs", (*machines.Machine).Stop),
		nodeFault(c, "start", "Undo stop, cut and slow", (*machines.Machine).Start),
	)
	return cmd
}

func nodeFault(c *common, name, short string, do func(*machines.Machine) error) *cobra.Command {
	return &cobra.Command{
		Use: name + " NODE", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := filepath.Abs(c.stateDir)
			if err != nil {
				return err
			}
			all, err := machines.Load(dir)
			if errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("no km up --nodes runs in %s: start one, or give its directory by --state-dir", dir)
			}
			if err != nil {
				return err
			}
			machine, err := all.Find(args[0])
			if err != nil {
				return err
			}
			return do(machine)
		},
	}
}
