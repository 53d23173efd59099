package suite

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Result is the result of a run of a suite.
type Result struct {
	Passed, Skipped int
	Failed          []Failure
}

// Failure is a case that failed, and the first line of why.
type Failure struct{ Case, Reason string }

// Summary names what failed; its last line, which begins with the suite's name, has the counts.
func (r Result) Summary(suite string) string {
	var b strings.Builder
	for _, f := range r.Failed {
		fmt.Fprintf(&b, "failed: %s", f.Case)
		if f.Reason != "" {
			fmt.Fprintf(&b, ": %s", f.Reason)
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%s: %d passed, %d failed, %d skipped\n", suite, r.Passed, len(r.Failed), r.Skipped)
	return b.String()
}

// ReadReport counts the cases of a JUnit report by Ginkgo (https://onsi.github.io/ginkgo/#generating-reports-programmatically).
// What prepares and cleans up the whole suite stands there, too: it counts only if it failed. Of the cases that passed or
// were skipped only those count that are wanted, by their names; nil wants all. A report without any case that ran is an
// error.
func ReadReport(report io.Reader, wanted func(name string) bool) (r Result, err error) {
	type reason struct {
		Message string `xml:"message,attr"`
	}
	var suites struct {
		Cases []struct {
			Name    string `xml:"name,attr"`
			Status  string `xml:"status,attr"`
			Failure reason `xml:"failure"`
			Error   reason `xml:"error"` // of a panic or an interruption
		} `xml:"testsuite>testcase"`
	}
	if err := xml.NewDecoder(report).Decode(&suites); err != nil {
		return r, fmt.Errorf("cannot read the suite's report: %w", err)
	}
	for _, c := range suites.Cases {
		name, isCase := strings.CutPrefix(c.Name, "[It] ")
		isCase = isCase && (wanted == nil || wanted(name))
		switch c.Status {
		case "passed":
			if isCase {
				r.Passed++
			}
		case "skipped", "pending":
			if isCase {
				r.Skipped++
			}
		default: // failed, panicked, timedout, interrupted, aborted
			r.Failed = append(r.Failed, Failure{Case: name, Reason: headline(c.Failure.Message + c.Error.Message)})
		}
	}
	if r.Passed == 0 && len(r.Failed) == 0 {
		return r, errors.New("the suite ran no case")
	}
	return r, nil
}

func headline(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}
