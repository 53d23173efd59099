package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/api/controlplane"
	"github.com/k8sm/k8sm/api/statedir"
)

// certificate is what km tells of a certificate.
type certificate struct {
	Name    string    `json:"name"`
	File    string    `json:"file"`
	Subject string    `json:"subject"`
	Issuer  string    `json:"issuer"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
	// DaysLeft is negative for one that has ended.
	DaysLeft int `json:"daysLeft"`
	// RenewedAt is when the control plane issues it again; nil for a CA.
	RenewedAt *time.Time `json:"renewedAt,omitempty"`
}

var certificates = kind[certificate]{
	singular: "certificate", plural: "certificates", prefix: "certificate",
	columns: []metav1.TableColumnDefinition{
		column("Name"), column("Subject"), column("Issuer"), column("Since"), column("Until"), column("Days left"), column("Renewed at"), wide("File"),
	},
	rows: func(_ time.Time, c certificate) [][]any {
		renewed := "<never>"
		if c.RenewedAt != nil {
			renewed = moment(*c.RenewedAt)
		}
		return [][]any{{c.Name, c.Subject, c.Issuer, moment(c.Since), moment(c.Until), strconv.Itoa(c.DaysLeft), renewed, c.File}}
	},
	name:  func(c certificate) string { return c.Name },
	names: func(c certificate) []string { return []string{c.Name} },
}

// moment is a time in a table. Those of certificates that last minutes differ by seconds.
func moment(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05Z") }

// readCertificates describes those in the directory.
func readCertificates(dir statedir.Dir, now time.Time) ([]certificate, error) {
	all, err := dir.Certificates()
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, dir.NoCluster()
	}
	var list []certificate
	for _, c := range all {
		left := c.NotAfter.Sub(now)
		one := certificate{
			Name: c.Name, File: c.File, Subject: c.Subject.String(), Issuer: c.Issuer.String(), Since: c.NotBefore, Until: c.NotAfter,
			DaysLeft: int(left / (24 * time.Hour)),
		}
		if left < 0 {
			one.DaysLeft--
		}
		if !c.Authority {
			at := statedir.RenewedAt(c.Certificate)
			one.RenewedAt = &at
		}
		list = append(list, one)
	}
	return list, nil
}

func certsCommand(c *common) *cobra.Command {
	var s showing
	cmd := &cobra.Command{
		Use: "certs [NAME...]", Short: "Show and renew the certificates in the state directory", Args: cobra.ArbitraryArgs,
		Long: `Shows the certificates in --state-dir, and how long they last. With names, show only those. A running control plane renews each of
them after two thirds of its life.`,
		Example: "  km certs\n  km certs apiserver -o yaml\n  km certs renew scheduler",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := usage(s.check()); err != nil {
				return err
			}
			v := newViewer(certificates, s, args)
			v.out, v.errs = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return v.show(cmd.Context(), func(context.Context) ([]certificate, error) { return readCertificates(c.dir(), time.Now()) })
		},
	}
	cmd.Flags().StringVarP(&s.output, "output", "o", "", "output `format`: wide, json, yaml or name (default: a table)")
	cmd.Flags().BoolVar(&s.noHeaders, "no-headers", false, "print no header line")
	cmd.AddCommand(certsRenewCommand(c), certsRotateCACommand(c), certsRotateTokenKeyCommand(c))
	return cmd
}

func certsRenewCommand(c *common) *cobra.Command {
	return &cobra.Command{
		Use: "renew [NAME...]", Short: "Issue certificates again now", Args: cobra.ArbitraryArgs,
		Long: `Issues certificates again that are not due yet: those of the names, or all but CAs. They keep their keys, names and lives. Programs take
them over while they run.`,
		Example: "  km certs renew\n  km certs renew apiserver scheduler",
		RunE: func(cmd *cobra.Command, names []string) error {
			renewed, err := c.dir().Reissue(time.Now(), names...)
			if len(renewed) > 0 {
				slices.Sort(renewed)
				fmt.Fprintln(cmd.OutOrStdout(), "renewed "+strings.Join(renewed, ", "))
			}
			return err
		},
	}
}

// tokensLast is what tokens of service accounts last at most, whatever is requested.
const tokensLast = 720 * time.Hour

func certsRotateTokenKeyCommand(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "rotate-sa-key", Short: "Replace the key that signs the tokens of service accounts", Args: cobra.NoArgs,
		Long: `Replaces the key that signs the tokens of service accounts, in three steps: begin, issue, finish. After begin and after issue, restart each
control plane, one after another: it gets the keys from etcd. Each step checks that the API servers have taken the one before over. Pods run on,
and no token is refused before it ends. Without a step, tells which one comes next.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := c.dir().TokenKeys()
			if err != nil {
				return err
			}
			next := "begin"
			switch {
			case keys.Next != "":
				next = "issue, when each control plane was restarted"
			case keys.Old != "":
				next = "finish, when each control plane was restarted and tokens by the former key have ended"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "tokens are signed by %s; next: %s\n", keys.Current, next)
			return nil
		},
	}
	var without []string
	add := func(use, short, done string, do func(context.Context, *controlplane.TokenKeyRotation) error) *cobra.Command {
		step := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(c, func(ctx context.Context) error {
				dir, err := filepath.Abs(c.stateDir)
				if err != nil {
					return fmt.Errorf("cannot find %s: %w", c.stateDir, err)
				}
				rotation, err := controlplane.NewTokenKeyRotation(ctx, statedir.Dir(dir), without...)
				if err != nil {
					return err
				}
				defer rotation.Close()
				if err := do(ctx, rotation); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), done)
				return nil
			})
		}}
		addWithout(step, &without)
		cmd.AddCommand(step)
		return step
	}
	add("begin", "Make the next key, so that API servers trust it from their next start on", "there is a next key; restart each control plane, then: km certs rotate-sa-key issue",
		func(ctx context.Context, r *controlplane.TokenKeyRotation) error { return r.Begin(ctx) })
	add("issue", "Sign tokens by the next key", "tokens are signed by the next key from the next start on; restart each control plane, and when tokens by the former key have ended: km certs rotate-sa-key finish",
		func(ctx context.Context, r *controlplane.TokenKeyRotation) error { return r.Issue(ctx) })
	var after time.Duration
	finish := add("finish", "End the trust in the former key", "the former key is trusted no more from the next start on; restart each control plane",
		func(ctx context.Context, r *controlplane.TokenKeyRotation) error {
			return r.Finish(ctx, time.Now(), after)
		})
	finish.Flags().DurationVar(&after, "after", tokensLast, "how long ago the former key must have been replaced. Pods' own tokens last an hour; those that somebody requests, 720h at most")
	return cmd
}
