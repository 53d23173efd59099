package kubecfg

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/k8sm/k8sm/api/v1beta1"
)

// sourceTimeout bounds the download of an object.
const sourceTimeout = 30 * time.Second

// readObject reads the object that -c names, as one of the resource.
func (k *kubecfg) readObject(ctx context.Context, of resource) (v1beta1.Object, error) {
	if k.source == "" {
		return nil, sayf("Need config file (-c)")
	}
	data, err := k.readSource(ctx)
	if err != nil {
		return nil, sayf("Unable to read config file: %v", err)
	}
	object, err := v1beta1.Decode(data, of.Resource, k.apiVersion)
	if err != nil {
		return nil, sayf("Error parsing %s as an object for %s: %v", k.source, of.Name, err)
	}
	if k.verbose {
		text, err := json.Marshal(object)
		if err != nil {
			return nil, err
		}
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
