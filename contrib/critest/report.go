package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// result is how a run of the suite ended.
type result struct {
	passed, skipped int
	failed          []string // the cases' names
}

// String names what failed; the last line has the counts.
func (r result) String() string {
	var b strings.Builder
	for _, name := range r.failed {
		fmt.Fprintf(&b, "failed: %s\n", name)
	}
	fmt.Fprintf(&b, "critest: %d passed, %d failed, %d skipped\n", r.passed, len(r.failed), r.skipped)
	return b.String()
}

// readReport counts the cases of a JUnit report by Ginkgo (https://onsi.github.io/ginkgo/#generating-reports-programmatically).
// What prepares and cleans up the whole suite stands there, too: it counts only if it failed.
func readReport(report io.Reader) (r result, err error) {
	var suites struct {
		Cases []struct {
			Name   string `xml:"name,attr"`
			Status string `xml:"status,attr"`
		} `xml:"testsuite>testcase"`
	}
	if err := xml.NewDecoder(report).Decode(&suites); err != nil {
		return r, fmt.Errorf("cannot read critest's report: %w", err)
	}
	for _, c := range suites.Cases {
		name, isCase := strings.CutPrefix(c.Name, "[It] ")
		switch c.Status {
		case "passed":
			if isCase {
				r.passed++
			}
		case "skipped", "pending":
			if isCase {
				r.skipped++
			}
		default: // failed, panicked, timedout, interrupted, aborted
			r.failed = append(r.failed, name)
		}
	}
	if r.passed == 0 && len(r.failed) == 0 {
		return r, errors.New("critest ran no case")
	}
	return r, nil
}
