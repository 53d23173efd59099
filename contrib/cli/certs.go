package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
		renewed := "<by rotate-ca>"
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
	cmd.AddCommand(certsRenewCommand(c))
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
