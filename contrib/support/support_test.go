package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// unpack returns the files of a bundle.
func unpack(t *testing.T, bundle io.Reader) map[string]string {
	t.Helper()
	packed, err := gzip.NewReader(bundle)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(packed); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil || header.Mode != 0o600 {
			t.Fatalf("%s, mode %o: %v", header.Name, header.Mode, err)
		}
		files[header.Name] = string(text)
	}
}

// secret stands wherever people write secrets.
const secret = "hunter2"

// objects are lists with secrets in them, by path.
var objects = map[string]string{
	"/api/v1/pods": `{"metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"},
		"annotations": {"k8sm.io/task-id": "t.1", "vault/token": "hunter2", "kubectl.kubernetes.io/last-applied-configuration": "hunter2"},
		"managedFields": [{"fieldsV1": "hunter2"}]},
		"spec": {"nodeName": "n1", "hostAliases": [{"hostnames": ["hunter2"]}], "containers": [{"name": "app", "image": "web:1", "command": ["hunter2"], "args": ["hunter2"],
			"env": [{"name": "A", "value": "hunter2"}], "livenessProbe": {"httpGet": {"httpHeaders": [{"value": "hunter2"}]}},
			"lifecycle": {"preStop": {"exec": {"command": ["hunter2"]}}}}],
			"initContainers": [{"name": "init", "image": "init:1", "args": ["hunter2"]}],
			"volumes": [{"name": "v", "flexVolume": {"options": {"password": "hunter2"}}}], "unknownField": "hunter2"},
		"status": {"phase": "Pending", "containerStatuses": [{"name": "app", "restartCount": 7,
			"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "exec hunter2"}},
			"lastState": {"terminated": {"exitCode": 3, "message": "hunter2"}}}]}}`,
	"/api/v1/events": `{"metadata": {"name": "e1"}, "reason": "BackOff", "message": "Back-off restarting"},
		{"metadata": {"name": "e2"}, "reason": "Unhealthy", "message": "Liveness probe failed: hunter2"}`,
	"/apis/apps/v1/deployments": `{"metadata": {"name": "web"}, "spec": {"replicas": 3, "template": {"metadata": {"annotations": {"x": "hunter2"}},
		"spec": {"containers": [{"name": "app", "image": "web:1", "env": [{"value": "hunter2"}]}]}}}}`,
	"/api/v1/persistentvolumes":                               `{"metadata": {"name": "pv"}, "spec": {"storageClassName": "fast", "csi": {"volumeAttributes": {"key": "hunter2"}}}}`,
	"/apis/storage.k8s.io/v1/storageclasses":                  `{"metadata": {"name": "fast"}, "provisioner": "p", "parameters": {"key": "hunter2"}}`,
	"/apis/certificates.k8s.io/v1/certificatesigningrequests": `{"metadata": {"name": "csr"}, "spec": {"signerName": "s", "request": "hunter2", "extra": {"x": ["hunter2"]}}, "status": {"certificate": "hunter2"}}`,
}

// server is an API server with the objects. It has a Secret and a ConfigMap, too, and refuses the lists of nodes.
func server(t *testing.T) *rest.Config {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		items, known := objects[r.URL.Path]
		switch {
		case r.URL.Path == "/readyz":
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, "[-]etcd failed")
		case r.URL.Path == "/api/v1/nodes":
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"message": "you may not list nodes"}`)
		case r.URL.Path == "/api/v1/secrets", r.URL.Path == "/api/v1/configmaps":
			t.Errorf("%s was asked for", r.URL.Path)
		case r.URL.Path == "/api/v1/services": // in pages
			page, after := "a", `"continue": "2"`
			if r.URL.Query().Get("continue") == "2" {
				page, after = "b", ""
			}
			fmt.Fprintf(w, `{"metadata": {%s}, "items": [{"metadata": {"name": "%s"}}]}`, after, page)
		case known || strings.HasPrefix(r.URL.Path, "/api"):
			fmt.Fprintf(w, `{"metadata": {}, "items": [%s]}`, items)
		default:
			fmt.Fprint(w, "ok")
		}
	}))
	t.Cleanup(s.Close)
	return &rest.Config{Host: s.URL}
}

func TestBundleHasNoSecrets(t *testing.T) {
	parts, err := API(server(t))
	if err != nil {
		t.Fatal(err)
	}
	var bundle bytes.Buffer
	if _, err := Write(t.Context(), &bundle, "b", parts); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, &bundle)
	for name, text := range files {
		if strings.Contains(text, secret) {
			t.Errorf("%s has a secret: %s", name, text)
		}
	}
	for name, want := range map[string][]string{
		"pods.jsonl":                       {`"k8sm.io/task-id":"t.1"`, `"nodeName":"n1"`, `"image":"web:1"`, `"image":"init:1"`, `"restartCount":7`, `"reason":"CrashLoopBackOff"`, `"exitCode":3`, `"app":"web"`},
		"events.jsonl":                     {"Back-off restarting", "Unhealthy"},
		"deployments.jsonl":                {`"replicas":3`, `"image":"web:1"`},
		"persistentvolumes.jsonl":          {`"storageClassName":"fast"`},
		"storageclasses.jsonl":             {`"provisioner":"p"`},
		"certificatesigningrequests.jsonl": {`"signerName":"s"`},
		"services.jsonl":                   {`"name":"a"`, `"name":"b"`},
	} {
		for _, want := range want {
			if text := files["b/objects/"+name]; !strings.Contains(text, want) {
				t.Errorf("%s lacks %s: %s", name, want, text)
			}
		}
	}
	for line := range strings.Lines(files["b/objects/pods.jsonl"]) {
		if !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %s", line)
		}
	}
}

func TestPartsThatFailAreSaidAndTheOthersAreThere(t *testing.T) {
	parts, err := API(server(t))
	if err != nil {
		t.Fatal(err)
	}
	parts = append(parts,
		Part{Name: "half", Read: func(_ context.Context, w io.Writer) error {
			fmt.Fprint(w, "begun")
			return errors.New("broke off")
		}},
		Part{Name: "long", Read: func(_ context.Context, w io.Writer) error {
			_, err := io.CopyN(w, zeros{}, maxPart+5)
			return err
		}})
	var bundle bytes.Buffer
	failed, err := Write(t.Context(), &bundle, "b", parts)
	if err != nil || len(failed) != 4 {
		t.Errorf("%d failed: %v, %v", len(failed), failed, err)
	}
	files := unpack(t, &bundle)
	said := files["b/failures.txt"]
	for _, want := range []string{"half: broke off", "long: only the first 32 MiB are kept", "objects/nodes.jsonl: the API server answers 403 Forbidden: you may not list nodes", "api/readyz.txt: the API server answers 500"} {
		if !strings.Contains(said, want) {
			t.Errorf("failures.txt does not say %q: %s", want, said)
		}
	}
	if files["b/half"] != "begun" || len(files["b/long"]) != maxPart || files["b/api/readyz.txt"] != "[-]etcd failed" || files["b/api/version.json"] != "ok" {
		t.Errorf("half %q, long %d bytes, readyz %q, version %q", files["b/half"], len(files["b/long"]), files["b/api/readyz.txt"], files["b/api/version.json"])
	}
}

// zeros never end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestBundleEndsWithItsContext(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	_, err := Write(ctx, io.Discard, "b", []Part{{Name: "slow", Read: func(ctx context.Context, _ io.Writer) error {
		stop()
		<-ctx.Done()
		return ctx.Err()
	}}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
