package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/k8sm/k8sm/api/controlplane"
	"github.com/k8sm/k8sm/api/statedir"
)

func certsRotateCACommand(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use: "rotate-ca [NAME...]", Short: "Replace the certificate authorities while everything runs", Args: cobra.ArbitraryArgs, ValidArgs: statedir.AuthorityNames(),
		Long: `Replaces certificate authorities, all or those of the names, in three steps: begin, issue, finish. After begin, everything trusts the former
and the next one; after issue, everything gets certificates of the next one, and each kubelet starts again; after finish, the former one is
worth nothing. Nothing needs a restart, and pods run on. Each step checks that API servers, nodes and what pods trust have followed the one
before, and can be called again; abort goes back one step. With several control planes, bring each step to the others by km pki export and
import. Without a step, tells how far the authorities are, and who is late.`,
		Example: "  km certs rotate-ca\n  km certs rotate-ca begin\n  km certs rotate-ca issue\n  km certs rotate-ca finish",
		RunE: func(cmd *cobra.Command, names []string) error {
			if all, err := c.dir().Rotations(names...); err != nil || !moving(all) {
				if err == nil {
					fmt.Fprintln(cmd.OutOrStdout(), "no CA is being replaced; next: km certs rotate-ca begin")
				}
				return err
			}
			return rotateCA(c, nil, names, func(ctx context.Context, r *controlplane.CARotation) error {
				return tellRotation(ctx, cmd.OutOrStdout(), r)
			})
		},
	}
	cmd.AddCommand(certsRotateCABeginCommand(c))
	add := func(use, short, done string, do func(context.Context, *controlplane.CARotation) error) {
		force := false
		var without []string
		step := &cobra.Command{Use: use + " [NAME...]", Short: short, Args: cobra.ArbitraryArgs, ValidArgs: statedir.AuthorityNames(), RunE: func(cmd *cobra.Command, names []string) error {
			return rotateCA(c, without, names, func(ctx context.Context, r *controlplane.CARotation) error {
				r.Force = force
				if err := do(ctx, r); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), done)
				return nil
			})
		}}
		step.Flags().BoolVar(&force, "force", false, "do not check who is late: those are cut off")
		addWithout(step, &without)
		cmd.AddCommand(step)
	}
	add("issue", "Issue all certificates by the next authority", "all certificates here are from the next CA, and nodes get theirs now; next: km certs rotate-ca finish",
		func(ctx context.Context, r *controlplane.CARotation) error { return r.Issue(ctx, time.Now()) })
	add("finish", "End the trust in the former authority", "the former CA is worth nothing now; replace copies of admin.kubeconfig and of files in pki/ that you have made elsewhere",
		func(ctx context.Context, r *controlplane.CARotation) error { return r.Finish(ctx, time.Now()) })
	add("abort", "Go back one step", "went back one step", func(ctx context.Context, r *controlplane.CARotation) error { return r.Abort(ctx, time.Now()) })
	return cmd
}

func certsRotateCABeginCommand(c *common) *cobra.Command {
	lives := statedir.Lives{}
	cmd := &cobra.Command{Use: "begin [NAME...]", Short: "Make the next authority, which everything trusts beside the former one", Args: cobra.ArbitraryArgs, ValidArgs: statedir.AuthorityNames(),
		RunE: func(cmd *cobra.Command, names []string) error {
			lives.Leaf = lives.Authority // no certificate lasts longer, whatever it was made for
			if err := lives.Validate(); err != nil {
				return usageError{err}
			}
			return rotateCA(c, nil, names, func(_ context.Context, r *controlplane.CARotation) error {
				if err := r.Begin(time.Now(), lives); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), "there is a next CA, and everything comes to trust it now; next: km certs rotate-ca issue")
				return nil
			})
		}}
	lives.AddAuthorityFlag(cmd.Flags())
	return cmd
}

// rotateCA calls a step.
func rotateCA(c *common, without, names []string, do func(context.Context, *controlplane.CARotation) error) error {
	dir, err := absoluteDir(c)
	if err != nil {
		return err
	}
	return serve(c, func(ctx context.Context) error {
		r, err := controlplane.NewCARotation(ctx, dir, without, names...)
		if err != nil {
			return err
		}
		return do(ctx, r)
	})
}

func moving(all []statedir.Rotation) bool {
	return slices.ContainsFunc(all, func(r statedir.Rotation) bool { return r.Phase != statedir.Steady })
}

// tellRotation tells how far the CAs are, and who is late.
func tellRotation(ctx context.Context, out io.Writer, r *controlplane.CARotation) error {
	all, late, err := r.State(ctx)
	if err != nil {
		return err
	}
	next := map[statedir.Phase]string{statedir.Begun: "issue", statedir.Issued: "finish"}
	for _, ca := range all {
		if ca.Phase != statedir.Steady {
			fmt.Fprintf(out, "%s: %s; certificates are from %s, and %s is trusted, too; next: km certs rotate-ca %s\n",
				ca.Authority, ca.Phase, ca.Issuer.Subject, ca.Other.Subject, next[ca.Phase])
		}
	}
	if len(late) > 0 {
		fmt.Fprintln(out, "late:\n  "+strings.Join(late, "\n  "))
	}
	return nil
}
