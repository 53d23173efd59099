package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// openWord stands in the environment of the pod that the tables are about, not in a Secret.
const openWord = "open-sesame"

// mesosReader reads the Mesos master as an operator does, with a secret if it has one.
type mesosReader struct {
	t      *testing.T
	c      *scratch.Cluster
	secret string
	pod    *corev1.Pod
}

// readersOfMesosSeeWhatThePageSays tries the table of Mesos.
func readersOfMesosSeeWhatThePageSays(t *testing.T, c *scratch.Cluster, dir string, p *corev1.Pod) {
	secret, err := os.ReadFile(filepath.Join(dir, "mesos", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	tryTable(t, "In Mesos", map[string]mesosReader{
		"a principal": {t, c, strings.TrimSpace(string(secret)), p}, "nobody": {t, c, "", p},
	}, map[string]attempt[mesosReader]{
		"see the tasks of pods":                           func(ctx context.Context, as mesosReader) error { return as.sees(ctx, string(as.pod.UID)+".") },
		"see the environment of a pod":                    func(ctx context.Context, as mesosReader) error { return as.sees(ctx, openWord) },
		"call as a framework":                             asFramework,
		"get a bootstrap token that the API server takes": liveToken,
	})
}

// post calls the master and returns its answer. Callers that may not call are refused.
func (r mesosReader) post(ctx context.Context, path, call, accept string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.c.Master+path, strings.NewReader(call))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", accept)
	if r.secret != "" {
		request.SetBasicAuth("k8sm", r.secret)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if response.StatusCode == http.StatusUnauthorized {
		return nil, refusedf("%s", response.Status)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", response.Status, answer)
	}
	return answer, err
}

// sees reports whether what the master says of frameworks, executors and tasks has the word. It asks for protobuf, in which bytes
// stand as they are.
func (r mesosReader) sees(ctx context.Context, word string) error {
	answer, err := r.post(ctx, "/api/v1", `{"type": "GET_STATE"}`, "application/x-protobuf")
	if err == nil && !bytes.Contains(answer, []byte(word)) {
		err = refusedf("it is not in the answer")
	}
	return err
}

// asFramework sends a call that the master does not understand, once it knows who calls.
func asFramework(ctx context.Context, r mesosReader) error {
	_, err := r.post(ctx, "/api/v1/scheduler", `{"type": "SUBSCRIBE"}`, "application/json")
	if err != nil && strings.Contains(err.Error(), "Failed to validate scheduler::Call") {
		return nil
	}
	return err
}

// liveToken tries the tokens that stand in executors' data at the API server.
func liveToken(ctx context.Context, r mesosReader) error {
	answer, err := r.post(ctx, "/api/v1", `{"type": "GET_EXECUTORS"}`, "application/json")
	if err != nil {
		return err
	}
	var read struct {
		Executors struct {
			Executors []struct {
				Info struct {
					Data []byte `json:"data"`
				} `json:"executor_info"`
			} `json:"executors"`
		} `json:"get_executors"`
	}
	if err := json.Unmarshal(answer, &read); err != nil {
		return err
	}
	tokens := 0
	for _, executor := range read.Executors.Executors {
		boot, err := api.ParseBootstrap(executor.Info.Data)
		if err != nil {
			return err
		}
		tokens++
		err = judged(tokenUser(r.t, r.c, boot.Token).kube.CoreV1().RESTClient().Get().AbsPath("/version").Do(ctx).Error())
		if !errors.Is(err, errRefused) {
			return err
		}
	}
	if tokens == 0 {
		return fmt.Errorf("no executor has a token: %s", answer)
	}
	return refusedf("none of %d tokens is good any more", tokens)
}
