package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/k8sm/k8sm/api/join"
)

func pkiCommand(c *common) *cobra.Command {
	cmd := &cobra.Command{Use: "pki", Short: "Bring a cluster's certificate authorities to the machine of its next control plane"}
	cmd.AddCommand(pkiExportCommand(c), pkiImportCommand(c), pkiTokenCommand(c), pkiJoinCommand(c))
	return cmd
}

const passphraseUsage = "`file` with the passphrase in its first line"

func pkiExportCommand(c *common) *cobra.Command {
	var passphraseFile string
	cmd := &cobra.Command{
		Use: "export FILE", Short: "Write the authorities and keys that all control planes of a cluster have in common to an encrypted file", Args: cobra.ExactArgs(1),
		Long: `Writes the certificate authorities with their keys, the key of service accounts' tokens, and the key of secrets that km made, to one file
that only its owner reads, encrypted with a passphrase. Without --passphrase-file it makes one and prints it. Whoever has both is the
cluster's administrator for as long as the authorities last.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			passphrase, made := rand.Text(), true
			if passphraseFile != "" {
				var err error
				if passphrase, err = readPassphrase(passphraseFile); err != nil {
					return err
				}
				made = false
			}
			sealed, err := join.Seal(c.dir(), passphrase)
			if err != nil {
				return err
			}
			if err := writeNew(args[0], sealed); err != nil {
				return err
			}
			if made {
				fmt.Fprintf(cmd.ErrOrStderr(), "The passphrase, which is shown only now:\n")
				fmt.Fprintln(cmd.OutOrStdout(), passphrase)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&passphraseFile, "passphrase-file", "", passphraseUsage+" (default: a random one is made and printed)")
	return cmd
}

// writeNew writes a file that its owner alone reads. It replaces none: it may be the only way back to another cluster.
func writeNew(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot write %s: there is such a file", path)
	}
	if err != nil {
		return fmt.Errorf("cannot write the file: %w", err)
	}
	_, err = file.Write(data)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("cannot write the file: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

func readPassphrase(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the passphrase: %w", err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	passphrase := strings.TrimSpace(string(line))
	if len(passphrase) < 12 {
		return "", fmt.Errorf("cannot use the passphrase in %s: its first line is shorter than 12 characters", path)
	}
	return passphrase, nil
}

func pkiImportCommand(c *common) *cobra.Command {
	var passphraseFile string
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Read the authorities of a cluster from a file of km pki export", Args: cobra.ExactArgs(1),
		Long: `Writes the authorities in the file to --state-dir, before the first start of a control plane there, and again after each step of km certs
rotate-ca elsewhere, while the control plane runs. It replaces none of another cluster.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if passphraseFile == "" {
				return usageError{errors.New("give --passphrase-file")}
			}
			passphrase, err := readPassphrase(passphraseFile)
			if err != nil {
				return err
			}
			sealed, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("cannot read the file: %w", err)
			}
			if c.dir().HasAuthorities() { // of the same cluster, and the control plane may run
				if err := join.Open(c.dir(), sealed, passphrase); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s has the cluster's authorities of now\n", c.stateDir)
				return nil
			}
			unlock, err := c.dir().Lock("control-plane")
			if err != nil {
				return err
			}
			if err := errors.Join(join.Open(c.dir(), sealed, passphrase), unlock()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s has the cluster's authorities: start km etcd with --join, or km apiserver with the cluster's --etcd-servers\n", c.stateDir)
			return nil
		},
	}
	cmd.Flags().StringVar(&passphraseFile, "passphrase-file", "", passphraseUsage)
	return cmd
}

// longestTokenLife bounds --ttl: who has a token is as good as an administrator.
const longestTokenLife = 24 * time.Hour

func pkiTokenCommand(c *common) *cobra.Command {
	life := time.Hour
	cmd := &cobra.Command{
		Use: "token", Short: "Print a token with which one machine gets the cluster's authorities from the API server", Args: cobra.NoArgs,
		Long: `Makes a token for km apiserver --join and --token-file, and prints it. It works once. Call it on the machine of a control plane that runs.
Whoever uses it first gets what km pki export writes: keep it as secret as the key of the CA.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if life < time.Minute || life > longestTokenLife {
				return usageError{fmt.Errorf("cannot use --ttl=%s: give a time from 1m to %s", life, longestTokenLife)}
			}
			admin, err := clientcmd.BuildConfigFromFlags("", c.dir().AdminKubeconfig())
			if err != nil {
				return fmt.Errorf("cannot read the administrator's kubeconfig: %w", err)
			}
			client, err := kubernetes.NewForConfig(admin)
			if err != nil {
				return fmt.Errorf("cannot create a client for the API server: %w", err)
			}
			return serve(c, func(ctx context.Context) error {
				token, err := join.Issue(ctx, client, c.dir(), life)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), token)
				return nil
			})
		},
	}
	cmd.Flags().DurationVar(&life, "ttl", life, "`time` after which the token ends if nobody has used it, at most 24h")
	return cmd
}

func pkiJoinCommand(c *common) *cobra.Command {
	var tokenFile string
	cmd := &cobra.Command{
		Use: "join URL", Short: "Get the authorities of a cluster from the API server at this URL, with a token of km pki token", Args: cobra.ExactArgs(1),
		Long: `Writes the cluster's authorities to --state-dir, and ends the token. Use it before km etcd join. A machine without a member of etcd needs only
km apiserver --join, which does the same.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if tokenFile == "" {
				return usageError{errors.New("give --token-file")}
			}
			token, err := join.ReadToken(tokenFile)
			if err != nil {
				return err
			}
			unlock, err := c.dir().Lock("control-plane")
			if err != nil {
				return err
			}
			return serve(c, func(ctx context.Context) error {
				if err := errors.Join(join.Fetch(ctx, args[0], token, c.dir()), unlock()); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s has the cluster's authorities\n", c.stateDir)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "`file` with the token")
	return cmd
}
