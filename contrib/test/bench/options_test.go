package main

import (
	"bytes"
	"errors"
	"flag"
	"strings"
	"testing"
)

func TestHelpHasOnlyTheFlagsOfTheBenchmark(t *testing.T) {
	var help bytes.Buffer
	if _, _, err := options([]string{"--help"}, &help); !errors.Is(err, flag.ErrHelp) {
		t.Fatal(err)
	}
	registered := 0
	flag.VisitAll(func(f *flag.Flag) { // by libraries
		registered++
		if strings.Contains(help.String(), "  -"+f.Name+" ") {
			t.Errorf("the help has --%s:\n%s", f.Name, &help)
		}
	})
	if registered < 20 || !strings.Contains(help.String(), "  -only ") {
		t.Errorf("%d flags of libraries; the help:\n%s", registered, &help)
	}
}

func TestOptionsThatMeasureNothingAreRefused(t *testing.T) {
	for arg, says := range map[string]string{
		"--only=nothing": "--only=nothing is none of decision, ", "--rounds=0": "--rounds and --minutes must be at least 1", "--logs-lines=1": "--logs-lines must be at least 1000",
	} {
		var out bytes.Buffer
		if _, _, err := options([]string{arg}, &out); err == nil || !strings.Contains(out.String(), says) {
			t.Errorf("%s: %v, %s", arg, err, &out)
		}
	}
}
