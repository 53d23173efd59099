package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

func main() {
	var b build
	flag.StringVar(&b.km, "km", "../../km", "the `program` to package")
	flag.StringVar(&b.out, "out", "../../build/packages", "`directory` for the packages")
	flag.StringVar(&b.version, "version", "", "km's `version`, as git describes it")
	flag.Parse()
	if err := b.run(); err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		os.Exit(1)
	}
}

// build is what is packaged, and where.
type build struct {
	km, out, version string
	made             string    // directory of the manual pages and completions
	time             time.Time // of all files: that of the program
}

// run writes the packages, and prints their names.
func (b build) run() (err error) {
	if b.km, err = filepath.Abs(b.km); err != nil {
		return err
	}
	info, err := os.Stat(b.km)
	if err != nil {
		return fmt.Errorf("cannot package km: %w: run make build", err)
	}
	b.time = info.ModTime().UTC().Truncate(time.Second)
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	// km dates its manual pages by it, nfpm the packages.
	if err := os.Setenv("SOURCE_DATE_EPOCH", strconv.FormatInt(b.time.Unix(), 10)); err != nil {
		return err
	}
	if b.made, err = os.MkdirTemp("", "k8sm-package-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.made)) }()
	if err := b.makeTexts(); err != nil {
		return err
	}
	for _, format := range []string{"deb", "rpm"} {
		file, err := b.write(format)
		if err != nil {
			return fmt.Errorf("cannot write the %s: %w", format, err)
		}
		fmt.Println(file)
	}
	file, err := b.writeImage()
	if err != nil {
		return fmt.Errorf("cannot write the container image: %w", err)
	}
	fmt.Println(file)
	return nil
}

// makeTexts has km write its manual pages and completions.
func (b build) makeTexts() error {
	man := filepath.Join(b.made, "man")
	if _, err := output(b.km, "man", man); err != nil {
		return err
	}
	pages, err := filepath.Glob(filepath.Join(man, "*.1"))
	if err != nil {
		return err
	}
	for _, page := range pages {
		if err := compress(page); err != nil {
			return err
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script, err := output(b.km, "completion", shell)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(b.made, "km."+shell), script, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func output(name string, args ...string) ([]byte, error) {
	out, err := exec.Command(name, args...).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(failed.Stderr))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot run %s %s: %w", filepath.Base(name), strings.Join(args, " "), err)
	}
	return out, nil
}

// compress replaces a file by one with .gz that is the same each time.
func compress(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var small bytes.Buffer
	w, err := gzip.NewWriterLevel(&small, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(file+".gz", small.Bytes(), 0o644), os.Remove(file))
}

// write writes a package of the format, and returns its file.
func (b build) write(format string) (string, error) {
	config, err := nfpm.ParseFileWithEnvMapping("nfpm.yaml", b.variable(format))
	if err != nil {
		return "", err
	}
	info, err := config.Get(format)
	if err != nil {
		return "", err
	}
	info.MTime = b.time
	info = nfpm.WithDefaults(info)
	for _, content := range info.Contents {
		if content.FileInfo == nil { // not so after nfpm.yaml
			return "", fmt.Errorf("%s has no mode", content.Destination)
		}
		content.FileInfo.MTime = b.time
	}
	packager, err := nfpm.Get(format)
	if err != nil {
		return "", err
	}
	file := filepath.Join(b.out, packager.ConventionalFileName(info))
	out, err := os.Create(file)
	if err != nil {
		return "", err
	}
	if err := errors.Join(packager.Package(info, out), out.Close()); err != nil {
		return "", errors.Join(err, os.Remove(file))
	}
	return file, nil
}

// variable returns nfpm.yaml's variables for a format: distributions that use it differ in a few directories.
func (b build) variable(format string) func(string) string {
	values := map[string]string{
		"ARCH": runtime.GOARCH, "VERSION": packageVersion(b.version), "KM": b.km, "MADE": b.made,
		"UNITS": "/lib/systemd/system", "ZSH": "/usr/share/zsh/vendor-completions", "LICENSE": "copyright",
	}
	if format == "rpm" {
		values["UNITS"], values["ZSH"], values["LICENSE"] = "/usr/lib/systemd/system", "/usr/share/zsh/site-functions", "LICENSE"
	}
	return func(name string) string { return values[name] }
}

// described is what `git describe --tags --always --dirty` and the Makefile make: a tag, commits since, and the time of the commit.
var described = regexp.MustCompile(`^(?:v(\d+(?:\.\d+)*)(-[0-9A-Za-z.]+?)??(?:-(\d+)-g[0-9a-f]+)?|[0-9a-f]{7,})(-dirty)?(?:\+(\d{8}T\d{6}Z))?$`)

// packageVersion returns km's version in a form that dpkg (https://www.debian.org/doc/debian-policy/ch-controlfields.html#version)
// and rpm order as km's own versions: pre-releases before their release, commits after their tag, by time what has no tag.
func packageVersion(version string) string {
	m := described.FindStringSubmatch(version)
	if m == nil {
		return "0.0.0"
	}
	tag, pre, commits, dirty, at := m[1], m[2], m[3], m[4], m[5]
	if tag == "" {
		tag = "0.0.0"
	}
	if pre != "" {
		tag += "~" + strings.ReplaceAll(pre[1:], "-", ".")
	}
	var since []string
	if commits != "" {
		since = append(since, commits)
	}
	if at != "" {
		since = append(since, at)
	}
	if dirty != "" {
		since = append(since, "dirty")
	}
	if len(since) == 0 {
		return tag
	}
	return tag + "+" + strings.Join(since, ".")
}
