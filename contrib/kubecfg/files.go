package kubecfg

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"

	"github.com/k8sm/k8sm/api/v1beta1"
)

// maxFile bounds the files of a namespace and of credentials, and what is typed for them.
const maxFile = 1 << 20

// namespaceInfo is the content of -ns_file.
type namespaceInfo struct{ Namespace string }

// namespaceVerbs work on -ns_file.
var namespaceVerbs = map[string]verb{"ns": failing((*kubecfg).useNamespace)}

// findNamespace sets the namespace from -ns_file, unless -ns gave it.
func (k *kubecfg) findNamespace() (err error) {
	if k.namespace == "" {
		k.namespace, err = readNamespace(k.namespaceFile)
	}
	return err
}

func readNamespace(path string) (string, error) {
	info := namespaceInfo{Namespace: v1beta1.DefaultNamespace}
	if err := readJSON(path, &info); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return info.Namespace, nil
}

// useNamespace prints the namespace that -ns_file has, or writes another.
func (k *kubecfg) useNamespace(_ context.Context, args []string) (err error) {
	var info namespaceInfo
	switch len(args) {
	case 1:
		info.Namespace, err = readNamespace(k.namespaceFile)
	case 2:
		info.Namespace = args[1]
		if wrong := validation.IsDNS1123Label(info.Namespace); len(wrong) > 0 {
			return fmt.Errorf("a namespace cannot have the name %s: %s", info.Namespace, wrong[0])
		}
		err = writeJSON(k.namespaceFile, info)
	default:
		return sayf("usage: kubecfg ns [<namespace>]")
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(k.Out, "Using namespace %s\n", info.Namespace)
	return err
}

// authInfo is the content of -auth.
type authInfo struct {
	User, Password            string
	CAFile, CertFile, KeyFile string
	BearerToken               string
	Insecure                  *bool
}

// authenticate adds the credentials in -auth, and what the server is verified with. Without the file, and without a certificate by
// flags, it asks for a user and a password and writes them there.
func (k *kubecfg) authenticate(config *rest.Config) error {
	var auth authInfo
	err := readJSON(k.authFile, &auth)
	if errors.Is(err, fs.ErrNotExist) {
		if k.certFile != "" {
			return nil
		}
		auth, err = k.prompt()
	}
	if err != nil {
		return err
	}
	config.Username, config.Password, config.BearerToken = auth.User, auth.Password, auth.BearerToken
	for _, f := range []struct {
		file string
		to   *string
	}{{auth.CAFile, &config.CAFile}, {auth.CertFile, &config.CertFile}, {auth.KeyFile, &config.KeyFile}} {
		if f.file != "" {
			*f.to = f.file
		}
	}
	if auth.Insecure != nil {
		config.Insecure = *auth.Insecure
	}
	return nil
}

func (k *kubecfg) prompt() (auth authInfo, err error) {
	in := bufio.NewReader(io.LimitReader(k.In, maxFile))
	for _, field := range []struct {
		name string
		to   *string
	}{{"Username", &auth.User}, {"Password", &auth.Password}} {
		fmt.Fprintf(k.Out, "Please enter %s: ", field.name)
		line, err := in.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return auth, err
		}
		if *field.to = strings.TrimSpace(line); *field.to == "" {
			return auth, fmt.Errorf("there is neither a %s nor the file %s", strings.ToLower(field.name), k.authFile)
		}
	}
	return auth, writeJSON(k.authFile, auth)
}

func readJSON(path string, to any) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	data, err := readAll(file, maxFile)
	if err == nil {
		err = json.Unmarshal(data, to)
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	return nil
}

// writeJSON writes a file that only its owner may read.
func writeJSON(path string, from any) error {
	data, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
