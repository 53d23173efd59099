package cli

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// renamed are the flags that had other names in earlier versions of km. The old names stay good, on the command line and in
// files of settings; no help shows them.
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

// currentName returns the name that a flag has now.
func currentName(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if now, ok := renamed[name]; ok {
		name = now
	}
	return pflag.NormalizedName(name)
}

// keepOldNames has a command, and those below it, take flags by their old names too.
func keepOldNames(cmd *cobra.Command) { cmd.SetGlobalNormalizationFunc(currentName) }
