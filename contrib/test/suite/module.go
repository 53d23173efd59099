package suite

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Module is a version of another Go module, such as "sigs.k8s.io/cri-tools" "v1.30.0", whose requirements are its own and
// must not become ours: its programs are built in a copy of it, by RunGo.
type Module struct{ Path, Version string }

// String returns the module as the go command takes it.
func (m Module) String() string { return m.Path + "@" + m.Version }

// CopyTo has the go command bring the module, checked against Go's checksum database
// (https://go.dev/ref/mod#go-mod-download), and replaces the folder `to` by a copy of it. The module's vendor folder stays
// behind: in a module's archive it is incomplete. The folder must be in no module.
func (m Module) CopyTo(ctx context.Context, to string) error {
	from, err := m.download(ctx)
	if err != nil {
		return err
	}
	return copyModule(from, to)
}

func (m Module) download(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", m.String())
	cmd.Dir = os.TempDir()
	cmd.Env = GoEnvironment()
	out, err := cmd.Output()
	var module struct{ Dir, Error string }
	if json.Unmarshal(out, &module) == nil && module.Error != "" {
		return "", fmt.Errorf("cannot download %s: %s", m, module.Error)
	}
	if err != nil {
		return "", fmt.Errorf("cannot download %s: %w", m, err)
	}
	return module.Dir, nil
}

func copyModule(from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, entry := range entries {
		source, target := filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())
		switch {
		case entry.Name() == "vendor":
		case entry.IsDir():
			err = os.CopyFS(target, os.DirFS(source))
		default:
			err = copyFile(source, target)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644) // the module cache's own files are read-only
}
