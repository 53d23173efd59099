package kubecfg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/k8sm/k8sm/api/v1beta1"
)

// sourceTimeout bounds the download of an object.
const sourceTimeout = 30 * time.Second

// readObject reads the object that -c names, as one of the resource.
func (k *kubecfg) readObject(ctx context.Context, of resource) (map[string]any, error) {
	if k.source == "" {
		return nil, sayf("Need config file (-c)")
	}
	data, err := k.readSource(ctx)
	if err != nil {
		return nil, sayf("Unable to read config file: %v", err)
	}
	object, err := parseObject(data, kinds[of.name], k.apiVersion)
	if err != nil {
		return nil, sayf("Error parsing %s as an object for %s: %v", k.source, of.name, err)
	}
	if k.verbose {
		text, _ := json.Marshal(object) // it was read as JSON
		fmt.Fprintf(k.Errs, "Parsed config file successfully; sending:\n%s\n", text)
	}
	return object, nil
}

func (k *kubecfg) readSource(ctx context.Context) ([]byte, error) {
	switch {
	case k.source == "-":
		data, err := readAll(k.In, maxSource)
		if err != nil {
			return nil, fmt.Errorf("unable to read from STDIN: %w", err)
		}
		return data, nil
	case strings.HasPrefix(k.source, "http://"), strings.HasPrefix(k.source, "https://"):
		return download(ctx, k.source)
	}
	file, err := os.Open(k.source)
	if err != nil {
		return nil, fmt.Errorf("unable to open file %s: %w", k.source, err)
	}
	defer file.Close()
	return readSourceFrom(file, k.source)
}

// download reads the file at a URL.
func download(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("unable to access URL %s: %w", url, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("unable to access URL %s: %w", url, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("unable to read URL, server reported %s", response.Status)
	}
	return readSourceFrom(response.Body, url)
}

func readSourceFrom(r io.Reader, name string) ([]byte, error) {
	data, err := readAll(r, maxSource)
	if err != nil {
		return nil, fmt.Errorf("unable to read from %s: %w", name, err)
	}
	return data, nil
}

// parseObject reads YAML or JSON. The kind and the version may be left out; a version that is known becomes the one given.
func parseObject(data []byte, kind, version string) (object map[string]any, err error) {
	exact := func(d *json.Decoder) *json.Decoder { d.UseNumber(); return d }
	if err := yaml.Unmarshal(data, &object, exact); err != nil {
		return nil, err
	}
	if len(object) == 0 {
		return nil, errors.New("there is no object in it")
	}
	for key, want := range map[string]string{"kind": kind, "apiVersion": version} {
		got, there := object[key]
		text, isText := got.(string)
		switch {
		case there && !isText:
			return nil, fmt.Errorf("its %s is no text", key)
		case key == "kind" && text != "" && text != want:
			return nil, fmt.Errorf("data of kind '%s', obj of type '%s'", text, want)
		case key == "apiVersion" && text != "" && !slices.Contains(v1beta1.Versions(), text):
			return nil, fmt.Errorf("its apiVersion is %s, and not %s: use km kubectl for it", text, strings.Join(v1beta1.Versions(), " or "))
		}
		object[key] = want
	}
	return object, nil
}
