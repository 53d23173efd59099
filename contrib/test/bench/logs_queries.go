package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/k8sm/k8sm/contrib/logs/client"
)

// search is a query, and what one would do with the files instead.
type search struct {
	name, query, shell string
	// of returns what a row of the answer, and parse what the output, counts, by what.
	of    func(row map[string]string) (what string, count int, err error)
	parse func(line string) (what string, count int, err error)
}

// searches are the kinds of queries that people make.
var searches = []search{
	{
		"rare_word", `"` + needle + `"`, `grep -h "` + needle + `" "$@"`,
		func(row map[string]string) (string, int, error) { return row["_msg"], 1, nil },
		func(line string) (string, int, error) {
			_, message, _ := strings.Cut(line, " stdout F ")
			return message, 1, nil
		},
	},
	{"frequent_word", `"status=404" | stats count() as n`, `grep -c -h status=404 "$@"`, counted(""), parseCount},
	{"regexp", `~"cart/123[0-9]* status=404" | stats count() as n`, `grep -c -h -E 'cart/123[0-9]* status=404' "$@"`, counted(""), parseCount},
	{
		"stats_by", `"level=warn" | extract " status=<status> " | stats by (status) count() as n`,
		`grep -h level=warn "$@" | grep -o ' status=[0-9]*' | sort | uniq -c`, counted("status"),
		func(line string) (string, int, error) {
			count, text, _ := strings.Cut(strings.TrimSpace(line), " ")
			n, err := strconv.Atoi(count)
			return strings.TrimPrefix(strings.TrimSpace(text), "status="), n, err
		},
	},
}

// counted takes the count of a row by a field.
func counted(field string) func(map[string]string) (string, int, error) {
	return func(row map[string]string) (string, int, error) {
		n, err := strconv.Atoi(row["n"])
		return row[field], n, err
	}
}

func parseCount(line string) (string, int, error) {
	n, err := strconv.Atoi(line)
	return "", n, err
}

// ask runs a query over the namespace's logs, by the API server, and calls each with the rows of the answer.
func (l *logsBench) ask(ctx context.Context, query string, each func(map[string]string) error) error {
	answer, err := l.client.Query(ctx, client.Place{Resource: "pods", Namespace: logNamespace}, queryOf(query), false)
	if err != nil {
		return err
	}
	defer answer.Close()
	for rows := json.NewDecoder(answer); ; {
		var row map[string]string
		switch err := rows.Decode(&row); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := each(row); err != nil {
			return err
		}
	}
}

// searches measures queries over all lines.
func (l *logsBench) searches(ctx context.Context, rounds int) error {
	for _, s := range searches {
		f := figure{name: "logs_query_" + s.name, unit: "ms"}
		for range rounds {
			began := time.Now()
			found := map[string]int{}
			err := l.ask(ctx, s.query, func(row map[string]string) error {
				what, n, err := s.of(row)
				found[what] += n
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", s.query, err)
			}
			f.add(time.Since(began))
			began = time.Now()
			grepped, err := l.grep(ctx, s)
			if err != nil {
				return fmt.Errorf("%s: %w", s.shell, err)
			}
			f.addPeer(time.Since(began))
			if len(found) == 0 || !maps.Equal(found, grepped) {
				return fmt.Errorf("the answers differ: %s has %d results, and %s %d", s.query, len(found), s.shell, len(grepped))
			}
		}
		f.print(os.Stdout)
	}
	return nil
}

// grep runs the search's shell command on the files that were shipped.
func (l *logsBench) grep(ctx context.Context, s search) (map[string]int, error) {
	args := []string{"-c", s.shell, "sh"}
	for _, p := range l.pods[:logWriters] {
		args = append(args, l.path(p, logContainer))
	}
	cmd := exec.CommandContext(ctx, "sh", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C") // with which grep is fastest
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	found := map[string]int{}
	for line := range bytes.Lines(out) {
		what, n, err := s.parse(strings.TrimSuffix(string(line), "\n"))
		if err != nil {
			return nil, err
		}
		found[what] += n
	}
	return found, nil
}
