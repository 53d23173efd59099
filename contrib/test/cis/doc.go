// Package cis checks a running cluster against the CIS Kubernetes Benchmark 1.10 (https://www.cisecurity.org/benchmark/kubernetes).
// It reads what really runs: /flagz and /configz of the stock programs, command lines in /proc, files with their owners and modes, and
// answers of servers. It never reads what km was told.
//
// It uses only client-go and the files of the state directory, and imports no other part of the cluster. Start reading at Check.
package cis

import (
	"context"
	"fmt"
	"io"
	"slices"
)

// Result is how an item ended.
type Result string

// The results.
const (
	Passed        Result = "PASS"
	Failed        Result = "FAIL"
	NotApplicable Result = "N/A"
)

// Finding is what was found for an item of the benchmark.
type Finding struct {
	// ID is the number of the item in the benchmark, such as "1.2.6", and Title says in our words what it wants.
	ID, Title string
	Result    Result
	// Reason says what was seen, or why the item does not apply.
	Reason string
	// Expected marks an item that fails in every k8sm cluster; Reason says why it cannot pass.
	Expected bool
}

// String returns the finding as one line.
func (f Finding) String() string {
	return fmt.Sprintf("%-4s %-6s %s: %s", f.Result, f.ID, f.Title, f.Reason)
}

// Check checks all items, in the order of the benchmark. It makes a namespace for a moment, and changes nothing else. The error is one
// of reading the cluster; an item that cannot be read fails.
func Check(ctx context.Context, t Target) ([]Finding, error) {
	s, err := look(ctx, t)
	if err != nil {
		return nil, err
	}
	var findings []Finding
	for _, i := range items() {
		v := i.check(ctx, s)
		findings = append(findings, Finding{ID: i.id, Title: i.title, Result: v.result, Reason: v.reason, Expected: v.expected})
	}
	return findings, nil
}

// items are those of the benchmark, in its order.
func items() []item {
	return slices.Concat(files(), apiServer(), controllerManager(), scheduler(), etcd(), auditing(), nodeFiles(), kubelet(), policies())
}

// Print prints a line for each finding, and the sums. It returns the items that fail and could pass.
func Print(out io.Writer, findings []Finding) (unexpected []Finding) {
	count := map[Result]int{}
	for _, f := range findings {
		fmt.Fprintln(out, f)
		count[f.Result]++
		if f.Result == Failed && !f.Expected {
			unexpected = append(unexpected, f)
		}
	}
	fmt.Fprintf(out, "cis: %d passed, %d failed, %d not applicable\n", count[Passed], count[Failed], count[NotApplicable])
	return unexpected
}

// item is an item of the benchmark.
type item struct {
	id, title string
	check     func(ctx context.Context, s *seen) verdict
}

// verdict is how a check ended.
type verdict struct {
	result   Result
	reason   string
	expected bool
}

func pass(format string, args ...any) verdict {
	return verdict{result: Passed, reason: fmt.Sprintf(format, args...)}
}

func fail(format string, args ...any) verdict {
	return verdict{result: Failed, reason: fmt.Sprintf(format, args...)}
}

// cannot is for an item that fails in every k8sm cluster.
func cannot(format string, args ...any) verdict {
	return verdict{result: Failed, reason: "cannot pass: " + fmt.Sprintf(format, args...), expected: true}
}

// does returns a check that always ends the same.
func does(v verdict) func(context.Context, *seen) verdict {
	return func(context.Context, *seen) verdict { return v }
}

// notApplicable returns a check of an item that has no object here.
func notApplicable(reason string) func(context.Context, *seen) verdict {
	return does(verdict{result: NotApplicable, reason: reason})
}
