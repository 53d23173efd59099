package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// secretsStaySecret looks for everything that is secret in the command lines and environments of all processes of the machine, which
// other users may see, and in all logs and a support bundle of the cluster, which people pass on.
func secretsStaySecret(t *testing.T, c *scratch.Cluster, dir string) {
	const value = "a-value-that-only-its-pod-may-show"
	_, err := c.Kube.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "secretive"}, StringData: map[string]string{"value": value},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := pod("secretive", forever)
	p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "secretive"}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "s", MountPath: "/s"}}
	p = create(t, c, p)
	awaitPhase(t, c, p.Name, corev1.PodRunning)

	secrets := secretsOf(t, c, dir)
	secrets["the value of a secret"] = value
	kinds := map[string]bool{}
	for what := range secrets {
		kinds[filepath.Ext(what)] = true
	}
	for _, kind := range []string{".key", ".kubeconfig", ".token"} {
		if !kinds[kind] {
			t.Errorf("no secret of the kind %s was found, so its absence says nothing: %q", kind, slices.Sorted(maps.Keys(secrets)))
		}
	}
	shown := slices.Concat(processes(t), logs(t, dir), supportBundle(t, c))
	seen := map[string]int{} // what shows the directory's name, which is no secret
	for _, text := range shown {
		if bytes.Contains(text.content, []byte(dir)) {
			seen[text.kind]++
		}
		for what, secret := range secrets {
			if bytes.Contains(text.content, []byte(secret)) {
				t.Errorf("%s shows a secret: %s", text.name, what)
			}
		}
	}
	if seen["command line"] == 0 || seen["environment"] == 0 || seen["log"] == 0 || seen["support bundle"] == 0 {
		t.Errorf("the search is blind: %v among %d texts", seen, len(shown))
	}
	remove(t, c, p)
}

// supportBundle returns the files of a support bundle. All parts of the cluster have answered.
func supportBundle(t *testing.T, c *scratch.Cluster) (files []text) {
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	out, err := c.KM(within(t, time.Minute), "support-bundle", file).CombinedOutput()
	if err != nil || string(out) != file+"\n" {
		t.Fatalf("km support-bundle: %v: %s", err, out)
	}
	packed, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	unpacked, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]int{}
	for archive := tar.NewReader(unpacked); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		names[strings.TrimPrefix(header.Name, "k8sm-support/")] = len(content)
		files = append(files, text{kind: "support bundle", name: header.Name, content: content})
	}
	for _, name := range []string{"version.json", "certificates.json", "scheduler/debug-tasks", "scheduler/metrics", "scheduler/mesos-state", "api/readyz.txt",
		"objects/nodes.jsonl", "objects/pods.jsonl", "objects/events.jsonl", "logs/minion.jsonl", "logs/kubelet.jsonl", "logs/km.jsonl"} {
		if names[name] == 0 {
			t.Errorf("the support bundle has no %s: %v", name, names)
		}
	}
	return files
}

var (
	keyData = regexp.MustCompile(`client-key-data: ([A-Za-z0-9+/=]+)`) // of a kubeconfig
	keyName = regexp.MustCompile(`"name": *"[^"]*"`)                   // of a key of secrets: etcd and metrics have it with all that is encrypted
	words   = regexp.MustCompile(`[A-Za-z0-9+/=_-]{16,}`)
)

// keysIn returns from each private key in PEM a line that is in no certificate: an RSA key has its public part at the beginning, an EC
// key at the end.
func keysIn(content []byte) (lines []string) {
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		body := base64.StdEncoding.EncodeToString(block.Bytes)
		line := body[24:64]
		if long := len(body) / 64; long > 10 {
			line = body[64*(long*2/3):][:64]
		}
		lines = append(lines, line)
	}
	return lines
}

// secretsOf returns the secrets of a cluster with what they are: parts of private keys, tokens, and whatever is in files that call
// themselves secret.
func secretsOf(t *testing.T, c *scratch.Cluster, dir string) map[string]string {
	t.Helper()
	secrets := map[string]string{}
	each(t, dir, func(path string, content []byte) {
		base := filepath.Base(path)
		for _, encoded := range keyData.FindAllSubmatch(content, -1) {
			decoded, err := base64.StdEncoding.DecodeString(string(encoded[1]))
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			secrets[path+" as it is.kubeconfig"] = string(encoded[1][len(encoded[1])/2:])
			content = append(content, decoded...)
		}
		for i, line := range keysIn(content) {
			secrets[fmt.Sprintf("%s, key %d.key", path, i+1)] = line
		}
		switch {
		case base == "token" && strings.Contains(path, "kubernetes.io~projected"): // a JWT; its end is the signature
			if token := strings.TrimSpace(string(content)); len(token) > 60 {
				secrets[path+".token"] = token[len(token)-40:]
			}
		case strings.Contains(base, "secret") || strings.Contains(base, "credential") || strings.Contains(base, "encryption"):
			for i, word := range words.FindAll(keyName.ReplaceAll(content, nil), -1) {
				if len(content) < 1<<14 {
					secrets[fmt.Sprintf("word %d of %s", i+1, path)] = string(word)
				}
			}
		}
	})
	tokens, err := c.Kube.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeBootstrapToken)})
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range tokens.Items {
		secrets["bootstrap token "+token.Name] = string(token.Data["token-secret"])
	}
	return secrets
}

// each calls use with the regular files below a directory, etcd's data excepted. Files may come and go meanwhile.
func each(t *testing.T, dir string, use func(path string, content []byte)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() && (path == filepath.Join(dir, "etcd") || path == filepath.Join(dir, "engine")) {
			return fs.SkipDir
		}
		if err != nil || !entry.Type().IsRegular() {
			return nil
		}
		info, err := entry.Info()
		if err != nil || info.Size() > 64<<20 { // km itself
			return nil
		}
		if content, err := os.ReadFile(path); err == nil {
			use(path, content)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// text is something that people who may not know secrets can read.
type text struct {
	kind, name string
	content    []byte
}

// processes returns the command lines and environments of all processes.
func processes(t *testing.T) []text {
	t.Helper()
	var all []text
	for file, kind := range map[string]string{"cmdline": "command line", "environ": "environment"} {
		paths, err := filepath.Glob("/proc/[0-9]*/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if content, err := os.ReadFile(path); err == nil { // else it has ended
				name, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "comm"))
				all = append(all, text{kind, fmt.Sprintf("the %s of %s", kind, strings.TrimSpace(string(name))), content})
			}
		}
	}
	return all
}

// logs returns the cluster's logs: of km, and of each minion, kubelet and proxy.
func logs(t *testing.T, dir string) []text {
	t.Helper()
	var all []text
	each(t, dir, func(path string, content []byte) {
		if base := filepath.Base(path); base == "stdout" || base == "stderr" || strings.HasSuffix(base, ".log") {
			all = append(all, text{"log", path, content})
		}
	})
	return all
}
