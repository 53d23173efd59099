package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"github.com/k8sm/k8sm/contrib/test/suite"
)

// The suite (https://github.com/kubernetes-sigs/cri-tools/blob/v1.30.0/docs/validation.md).
var suiteModule = suite.Module{Path: "sigs.k8s.io/cri-tools", Version: "v1.30.0"}

// suiteConstants is the suite's file with its image names. Flags cannot change all of them.
const suiteConstants = "pkg/validate/consts.go"

// buildSuite builds critest for our registry and our image's digest, in a copy of its module.
func (h *harness) buildSuite(ctx context.Context) error {
	source := filepath.Join(h.build, "cri-tools")
	if err := suiteModule.CopyTo(ctx, source); err != nil {
		return err
	}
	constants := filepath.Join(source, suiteConstants)
	text, err := os.ReadFile(constants)
	if err != nil {
		return err
	}
	if text, err = redirected(text, h.registry.Address, h.digest); err != nil {
		return err
	}
	if err := os.WriteFile(constants, text, 0o644); err != nil {
		return err
	}
	if h.program, err = filepath.Abs(filepath.Join(h.build, "critest.test")); err != nil {
		return err
	}
	// The first compilation takes minutes. `go build -v` shows progress, `go test -c` does not.
	out := &suite.Sampler{Out: os.Stdout, Unit: "packages compiled", Every: 50}
	if err := suite.RunGo(ctx, source, out, "build", "-v", "-trimpath", "./pkg/..."); err != nil {
		return err
	}
	return suite.RunGo(ctx, source, out, "test", "-trimpath", "-c", "-o", h.program, "./cmd/critest")
}

var (
	registryConstant = regexp.MustCompile(`(?m)^(\s*registry = ")[^"]*"$`)
	digestConstant   = regexp.MustCompile(`(registry \+ "test-image-digest@)sha256:[0-9a-f]{64}"`)
)

// redirected is the text of the suite's constants with another registry, and the digest that our image has there.
func redirected(text []byte, address, digest string) ([]byte, error) {
	for _, change := range []struct {
		constant *regexp.Regexp
		value    string
	}{{registryConstant, address + "/"}, {digestConstant, digest}} {
		if n := len(change.constant.FindAll(text, -1)); n != 1 {
			return nil, fmt.Errorf("%s of %s has %d constants like %s, not one", suiteConstants, suiteModule, n, change.constant)
		}
		text = change.constant.ReplaceAll(text, []byte("${1}"+change.value+`"`))
	}
	return text, nil
}

// runSuite runs critest against our server and returns what its report says.
func (h *harness) runSuite(ctx context.Context) (suite.Result, error) {
	report, err := filepath.Abs(filepath.Join(h.build, "junit.xml"))
	if err != nil {
		return suite.Result{}, err
	}
	if err := os.Remove(report); err != nil && !errors.Is(err, os.ErrNotExist) {
		return suite.Result{}, err
	}
	log, err := h.log("critest.log")
	if err != nil {
		return suite.Result{}, err
	}
	defer log.Close()
	temporary := h.path("tmp")
	if err := os.MkdirAll(temporary, 0o777); err != nil {
		return suite.Result{}, err
	}
	args := []string{
		"-runtime-endpoint=unix://" + h.socket(), "-image-endpoint=unix://" + h.socket(), "-config=" + h.path("none.yaml"),
		fmt.Sprintf("-ginkgo.seed=%d", h.seed), "-ginkgo.junit-report=" + report, "-ginkgo.no-color",
	}
	if h.focus != "" {
		args = append(args, "-ginkgo.focus="+h.focus)
	}
	h.undo.Add(removeSharedMemory())
	ended := suite.RunChild(ctx, io.MultiWriter(os.Stdout, log), []string{"TMPDIR=" + temporary}, h.program, args...)
	if ctx.Err() != nil {
		return suite.Result{}, ctx.Err()
	}
	file, err := os.Open(report)
	if err != nil {
		return suite.Result{}, errors.Join(ended, err)
	}
	defer file.Close()
	counted, err := suite.ReadReport(file, nil)
	if err == nil && ended != nil && len(counted.Failed) == 0 {
		err = fmt.Errorf("no case failed, but critest did: %w", ended)
	}
	return counted, err
}
