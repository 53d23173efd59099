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

// nodeCommand does to the machines of `km up --nodes` what happens to machines.
func nodeCommand(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "node", Short: "Cut a node of km up --nodes off, slow it down or stop it",
		Long: `Does to a node of "km up --nodes=N" what happens to machines, to see what becomes of its pods. The next km up undoes it. Needs root.`,
	}
	rate := "1M"
	var bits resource.Quantity
	slow := nodeFault(c, "slow", "Let only so much through the node's network, each way", func(m *machines.Machine) error {
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
		nodeFault(c, "cut", "Pull the node's network cable: it runs on and reaches nobody", (*machines.Machine).Cut),
		nodeFault(c, "heal", "Undo cut and slow", (*machines.Machine).Heal),
		nodeFault(c, "stop", "Stop all that runs on the node where it is, containers too, and cut it off: a machine that hangs", (*machines.Machine).Stop),
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
				return fmt.Errorf("there is no km up --nodes in %s: start one, or say by --state-dir where it is", dir)
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
