package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/logs"
	"github.com/k8sm/k8sm/api/statedir"
	"github.com/k8sm/k8sm/contrib/logs/client"
	"github.com/k8sm/k8sm/contrib/logs/read"
	"github.com/k8sm/k8sm/contrib/support"
	"github.com/k8sm/k8sm/scheduler/status"
)

func supportBundleCommand(c *common) *cobra.Command {
	var s showing
	since := time.Hour
	cmd := &cobra.Command{
		Use: "support-bundle [FILE]", Short: "Write a file for those who help with a broken cluster, without secrets", Args: cobra.MaximumNArgs(1),
		Long: `Writes a gzipped tar with what the scheduler and the API server tell of the cluster, and the logs of its programs. It has no Secrets and
ConfigMaps, and of pods no commands, environments or logs; look through it before you send it, for names that are nobody's business. Parts
that do not answer are left out, and said.`,
		Example: "  km support-bundle\n  km support-bundle /tmp/bundle.tar.gz --since=10m",
		RunE: func(cmd *cobra.Command, args []string) error {
			file := "k8sm-support-" + time.Now().UTC().Format("20060102T150405Z") + ".tar.gz"
			if len(args) > 0 {
				file = args[0]
			}
			if err := usage(checkAddresses(named{"status-address", s.address})); err != nil {
				return err
			}
			if since <= 0 {
				return usage(fmt.Errorf("cannot use --since=%s: give how long ago the logs begin", since))
			}
			failed, err := writeSupportBundle(cmd.Context(), file, supportParts(cmd.Context(), c.dir(), s, since))
			if err != nil {
				return fmt.Errorf("cannot write %s: %w", file, err)
			}
			for _, err := range failed {
				fmt.Fprintf(cmd.ErrOrStderr(), "km: left out: %v\n", err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), file)
			return nil
		},
	}
	s.addSchedulerFlags(cmd.Flags())
	cmd.Flags().DurationVar(&since, "since", since, "how far the logs go back")
	return cmd
}

// writeSupportBundle writes a new file that only its owner can read. It leaves none behind if it fails.
func writeSupportBundle(ctx context.Context, file string, parts []support.Part) (failed []error, err error) {
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	failed, err = support.Write(ctx, out, "k8sm-support", parts)
	if closed := out.Close(); err == nil {
		err = closed
	}
	if err != nil {
		os.Remove(file)
	}
	return failed, err
}

// supportParts returns the parts of a bundle. What cannot be reached fails when it is read.
func supportParts(ctx context.Context, dir statedir.Dir, s showing, since time.Duration) []support.Part {
	parts := []support.Part{
		{Name: "version.json", Read: func(_ context.Context, w io.Writer) error { return printVersions(w, "json", versionsOf()) }},
		{Name: "certificates.json", Read: func(_ context.Context, w io.Writer) error {
			list, err := readCertificates(dir, time.Now())
			if err != nil {
				return err
			}
			return json.NewEncoder(w).Encode(list)
		}},
	}
	scheduler, err := statusClient(ctx, dir, s)
	for _, path := range status.Paths() {
		parts = append(parts, support.Part{Name: "scheduler/" + strings.ReplaceAll(strings.Trim(path, "/"), "/", "-"), Read: func(ctx context.Context, w io.Writer) error {
			if err != nil {
				return err
			}
			return scheduler.Copy(ctx, path, w)
		}})
	}
	return append(parts, clusterParts(dir, since)...)
}

// clusterParts are those that the API server tells.
func clusterParts(dir statedir.Dir, since time.Duration) []support.Part {
	config, err := clientcmd.BuildConfigFromFlags("", dir.AdminKubeconfig())
	var parts []support.Part
	if err == nil {
		parts, err = support.API(config)
	}
	if err != nil {
		return []support.Part{{Name: "api", Read: func(context.Context, io.Writer) error { return err }}}
	}
	for _, component := range append(logs.NodeComponents(), "km") {
		parts = append(parts, support.Part{Name: "logs/" + component + ".jsonl", Read: func(ctx context.Context, w io.Writer) error {
			return copyLogs(ctx, config, component, since, w)
		}})
	}
	return parts
}

// copyLogs writes the logs of a component.
func copyLogs(ctx context.Context, config *rest.Config, component string, since time.Duration, w io.Writer) error {
	store, err := client.New(config)
	if err != nil {
		return err
	}
	lines := json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	asked := url.Values{read.ParamComponent: {component}, read.ParamSince: {time.Now().Add(-since).UTC().Format(time.RFC3339Nano)}}
	return store.Lines(ctx, client.Place{Resource: api.LogsComponents}, asked, nil, func(l read.Line) error { return lines.Encode(l) })
}
