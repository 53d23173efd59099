package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// prepare brings the cluster's authorities to a master that has never run: to the second by a file, to the third by a token.
func (c *cluster) prepare(ctx context.Context, m *master) error {
	first, file := c.masters[0], filepath.Join(c.dir, "secret")
	km := func(dir string, args ...string) ([]byte, error) {
		out, err := exec.CommandContext(ctx, c.km, append([]string{"--state-dir=" + dir}, args...)...).Output()
		if err != nil {
			return nil, fmt.Errorf("km %s: %w", strings.Join(args, " "), err)
		}
		return out, os.WriteFile(file, out, 0o600)
	}
	switch m.number {
	case 1:
		return nil
	case 2:
		bundle := filepath.Join(c.dir, "authorities.age")
		if _, err := km(first.dir, "pki", "export", bundle); err != nil {
			return err
		}
		_, err := km(m.dir, "pki", "import", bundle, "--passphrase-file="+file)
		return err
	}
	if _, err := km(first.dir, "pki", "token"); err != nil {
		return err
	}
	return scratch.Until(ctx, startPatience, func(context.Context) error { // the API server has to see the token first
		_, err := exec.CommandContext(ctx, c.km, "--state-dir="+m.dir, "pki", "join", "https://"+first.address+":6443", "--token-file="+file).Output()
		return err
	})
}

// etcdArgs are the arguments of a master's etcd.
func (c *cluster) etcdArgs(m *master) []string {
	args := []string{"etcd"}
	if m.number > 1 {
		args = append(args, "join", "https://"+c.masters[0].address+":2379")
	}
	return append(args, "--advertise-address="+m.address, fmt.Sprintf("--name=m%d", m.number))
}
