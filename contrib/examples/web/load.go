package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// load requests a page again and again. Each request has a connection of its own, because a service chooses a pod by the connection.
type load struct {
	url     string
	clients int
	count   int // of requests; 0 is without end
}

// loadCommand runs `web load` and returns its exit code: 1 if a request failed, 2 if the command line is wrong.
func loadCommand(ctx context.Context, args []string) int {
	l, err := parseLoad(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "web: %v\n", err)
		return 2
	}
	answers, failures := l.run(ctx)
	show(os.Stdout, "", answers)
	show(os.Stdout, "failed: ", failures)
	if len(failures) > 0 {
		return 1
	}
	return 0
}

func parseLoad(args []string) (load, error) {
	var l load
	flags := flag.NewFlagSet("web load URL", flag.ContinueOnError)
	flags.IntVar(&l.clients, "clients", 1, "how `many` clients send requests at a time")
	flags.IntVar(&l.count, "count", 0, "how `many` requests they send together; with 0 they send until they are asked to stop")
	if err := flags.Parse(args); err != nil {
		return l, err
	}
	l.url = flags.Arg(0)
	switch target, err := url.Parse(l.url); {
	case flags.NArg() != 1:
		return l, errors.New("load needs one URL, after its flags, such as http://shop/release")
	case err != nil || target.Scheme != "http" || target.Host == "":
		return l, fmt.Errorf("cannot load %q: give a URL such as http://shop/release", l.url)
	case l.clients < 1 || l.count < 0:
		return l, fmt.Errorf("cannot send %d requests from %d clients: give at least 0 and 1", l.count, l.clients)
	}
	return l, nil
}

// pause is how long a client waits after a request that failed.
const pause = 100 * time.Millisecond

// run sends the requests. It returns how often which answer came and which failure. Requests that ctx ends are neither.
func (l load) run(ctx context.Context) (answers, failures map[string]int) {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answers, failures = map[string]int{}, map[string]int{}
	var mu sync.Mutex // guards both, and sent
	sent := 0
	more := func() bool {
		mu.Lock()
		defer mu.Unlock()
		sent++
		return ctx.Err() == nil && (l.count == 0 || sent <= l.count)
	}
	var clients sync.WaitGroup
	for range l.clients {
		clients.Go(func() {
			for more() {
				answer, err := get(ctx, client, l.url)
				if ctx.Err() != nil {
					return
				}
				mu.Lock()
				if err != nil {
					failures[err.Error()]++
				} else {
					answers[answer]++
				}
				mu.Unlock()
				if err != nil {
					wait(ctx, pause)
				}
			}
		})
	}
	clients.Wait()
	return answers, failures
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// get returns the first line of the page.
func get(ctx context.Context, client *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", errors.New(response.Status)
	}
	line, _, _ := strings.Cut(string(body), "\n")
	return line, nil
}

// show prints one line for each text, with how often it came.
func show(out io.Writer, prefix string, counts map[string]int) {
	for _, text := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(out, "%6d  %s%s\n", counts[text], prefix, text)
	}
}
