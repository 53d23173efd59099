package status

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// relayTimeout bounds the answer of kube-proxy.
	relayTimeout = 10 * time.Second
	// maxRelayed is the most bytes that are passed on: kube-proxy's have some ten thousand.
	maxRelayed = 16 << 20
)

// relay passes on metrics from a URL. The caller's credentials stay here.
func relay(url string) http.Handler {
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // a restarted program listens on the same port
		Timeout:       relayTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		response, err := fetch(client, r, url)
		if err != nil {
			http.Error(w, "cannot read the metrics of kube-proxy: "+err.Error(), http.StatusBadGateway)
			return
		}
		defer response.Body.Close()
		w.Header().Set("Content-Type", response.Header.Get("Content-Type"))
		_, err = io.CopyN(w, response.Body, maxRelayed)
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			err = fmt.Errorf("they are more than %d bytes", maxRelayed)
		}
		logrus.WithError(err).Warn("cannot pass on the metrics of kube-proxy")
		panic(http.ErrAbortHandler) // the client must not take a part for the whole
	})
}

// fetch requests the URL in the formats that the caller accepts.
func fetch(client *http.Client, r *http.Request, url string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header["Accept"] = r.Header["Accept"]
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, fmt.Errorf("it answers %s", response.Status)
	}
	return response, nil
}
