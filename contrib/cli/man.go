package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/k8sm/k8sm/api"
)

// manCommand writes what packages install. It is hidden: people read the pages by man.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIRECTORY", Short: "Write the manual pages of km's commands", Args: cobra.ExactArgs(1), Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := writeManual(cmd.Root(), args[0]); err != nil {
				return fmt.Errorf("cannot write the manual pages: %w", err)
			}
			return nil
		},
	}
}

// writeManual writes a page a command. kubelet and kube-proxy are not ours, and people don't call them.
func writeManual(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, command := range root.Commands() {
		if command.Name() == "kubelet" || command.Name() == "proxy" {
			command.Hidden = true
		}
	}
	root.DisableAutoGenTag = true // it has the day on which the page was made
	// Their date is that of $SOURCE_DATE_EPOCH, or today's.
	return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "k8sm " + api.Version, Manual: "k8sm"}, dir)
}
