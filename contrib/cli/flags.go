package cli

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// renamed maps flag names of earlier versions to the current ones. The old names still work, on the command line and in --config
// files, but no help shows them.
var renamed = map[string]string{
	"agent-forget-after":       "agent-removal-timeout",
	"algorithm":                "scheduler-algorithm",
	"cordon-lead":              "cordon-lead-time",
	"drain-lead":               "drain-lead-time",
	"executor-suicide-timeout": "minion-idle-timeout",
	"gather":                   "batch-idle-duration",
	"launch-grace-period":      "task-launch-timeout",
	"name":                     "cluster-name",
	"refuse-seconds-idle":      "decline-offer-duration",
	"static-pods":              "static-pod-path",
}

// currentName maps an old name of a flag to the current one.
func currentName(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if now, ok := renamed[name]; ok {
		name = now
	}
	return pflag.NormalizedName(name)
}

// keepOldNames makes a command and its subcommands accept the old names of flags.
func keepOldNames(cmd *cobra.Command) { cmd.SetGlobalNormalizationFunc(currentName) }
