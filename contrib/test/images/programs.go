package images

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ProgramsLayer holds programs of this machine, found in its PATH, with the shared libraries that they need. They stand in
// /usr/local/bin, where they win over busybox's applets.
func ProgramsLayer(ctx context.Context, programs ...string) (Layer, error) {
	var files []File
	seen := map[string]bool{}
	add := func(name, path string, mode int64) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files = append(files, File{Name: name, Mode: mode, Data: data})
		return nil
	}
	for _, program := range programs {
		path, err := exec.LookPath(program)
		if err != nil {
			return Layer{}, fmt.Errorf("cannot make an image with %s: %w", program, err)
		}
		if err := add("usr/local/bin/"+program, path, 0o755); err != nil {
			return Layer{}, fmt.Errorf("cannot make an image with %s: %w", program, err)
		}
		out, err := exec.CommandContext(ctx, "ldd", path).Output()
		if err != nil {
			return Layer{}, fmt.Errorf("cannot find the libraries of %s: %w", path, err)
		}
		for _, library := range libraries(out) {
			if err := add(strings.TrimPrefix(library, "/"), library, 0o755); err != nil {
				return Layer{}, fmt.Errorf("cannot make an image with %s: %w", program, err)
			}
		}
	}
	return NewLayer(files...)
}

// libraries reads what ldd(1) prints: "NAME => PATH (ADDRESS)", and "PATH (ADDRESS)" for the loader.
func libraries(ldd []byte) (paths []string) {
	lines := bufio.NewScanner(bytes.NewReader(ldd))
	for lines.Scan() {
		for _, field := range strings.Fields(lines.Text()) {
			if filepath.IsAbs(field) {
				paths = append(paths, field)
				break
			}
		}
	}
	return paths
}
