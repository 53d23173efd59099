package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"
	etcd "go.etcd.io/etcd/api/v3/version"
	"sigs.k8s.io/yaml"

	"github.com/k8sm/k8sm/api"
)

// versions of km and its components.
type versions struct {
	// KM is the output of `git describe` at build time.
	KM         string `json:"km"`
	Kubernetes string `json:"kubernetes"`
	Etcd       string `json:"etcd"`
	Go         string `json:"go"`
	Platform   string `json:"platform"`
}

// versionsOf returns the versions of this program.
func versionsOf() versions {
	return versions{
		KM: fmt.Sprint(api.Version), Kubernetes: api.KubernetesVersion, Etcd: etcd.Version, Go: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

func versionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "version", Short: "Print the versions of km, Kubernetes, etcd and Go", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printVersions(cmd.OutOrStdout(), output, versionsOf())
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "output `format`: json or yaml (default: text)")
	return cmd
}

func printVersions(w io.Writer, output string, v versions) (err error) {
	var text []byte
	switch output {
	case "":
		text = fmt.Appendf(nil, "km %s\nKubernetes %s\netcd %s\n%s %s\n", v.KM, v.Kubernetes, v.Etcd, v.Go, v.Platform)
	case "json":
		text, err = json.MarshalIndent(v, "", "  ")
		text = append(text, '\n')
	case "yaml":
		text, err = yaml.Marshal(v)
	default:
		return usage(fmt.Errorf("cannot use --output=%s: give json or yaml", output))
	}
	if err != nil {
		return fmt.Errorf("cannot write the versions: %w", err)
	}
	_, err = w.Write(text)
	return err
}
