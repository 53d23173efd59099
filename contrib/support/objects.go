package support

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"k8s.io/client-go/rest"
)

// pageSize is how many objects an answer of the API server has at most.
const pageSize = 500

// answers are what the API server says of itself.
var answers = map[string]string{
	"readyz.txt": "/readyz?verbose", "livez.txt": "/livez?verbose", "version.json": "/version", "metrics.txt": "/metrics",
}

// API returns the parts that an API server tells, as the user of the configuration: its health and metrics, and the cluster's objects, a JSON
// object a line. Of these, only some fields are kept: see resources.
func API(config *rest.Config) ([]Part, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("cannot create a client for the API server: %w", err)
	}
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("cannot find the API server: %w", err)
	}
	a := api{http: client, url: strings.TrimSuffix(base.String(), "/")}
	var parts []Part
	for name, path := range answers {
		parts = append(parts, Part{Name: "api/" + name, Read: func(ctx context.Context, w io.Writer) error { return a.copy(ctx, path, w) }})
	}
	for path, of := range resources {
		name := "objects/" + path[strings.LastIndexByte(path, '/')+1:] + ".jsonl"
		parts = append(parts, Part{Name: name, Read: func(ctx context.Context, w io.Writer) error { return a.list(ctx, path, of, w) }})
	}
	slices.SortFunc(parts, func(a, b Part) int { return strings.Compare(a.Name, b.Name) })
	return parts, nil
}

type api struct {
	http *http.Client
	url  string
}

// copy copies an answer. An API server that is not ready says so with 500: that is an answer, too.
func (a api) copy(ctx context.Context, path string, w io.Writer) error {
	response, err := a.get(ctx, path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(w, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the API server answers %s", response.Status)
	}
	return nil
}

func (a api) get(ctx context.Context, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+path, nil)
	if err != nil {
		return nil, err
	}
	return a.http.Do(request)
}

// list writes what is kept of the objects at a path, page by page.
func (a api) list(ctx context.Context, path string, of keep, w io.Writer) error {
	lines := json.NewEncoder(w)
	for next := ""; ; {
		query := url.Values{"limit": {strconv.Itoa(pageSize)}}
		if next != "" {
			query.Set("continue", next)
		}
		page, err := a.page(ctx, path+"?"+query.Encode())
		if err != nil {
			return err
		}
		for _, object := range page.Items {
			if err := lines.Encode(shorten(object, of)); err != nil {
				return err
			}
		}
		if next = page.Metadata.Continue; next == "" {
			return nil
		}
	}
}

// page is a part of a list.
type page struct {
	Message  string `json:"message"` // of a refusal
	Metadata struct {
		Continue string `json:"continue"`
	} `json:"metadata"`
	Items []map[string]any `json:"items"`
}

func (a api) page(ctx context.Context, path string) (p page, err error) {
	response, err := a.get(ctx, path)
	if err != nil {
		return p, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&p); err != nil {
		return p, fmt.Errorf("cannot read the API server's answer, %s: %w", response.Status, err)
	}
	if response.StatusCode != http.StatusOK {
		return p, fmt.Errorf("the API server answers %s: %s", response.Status, p.Message)
	}
	return p, nil
}
