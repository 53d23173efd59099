package cri

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	credentials "github.com/k8sm/k8sm/minion/registry"
)

// pullName returns the name under which the Engine pulls an image: its own, unless its registry is rewritten. One rewrite applies to
// a name, and once.
func (s *Server) pullName(name string) string {
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return name // the Engine says what is wrong with it
	}
	host := reference.Domain(named)
	if to := s.cfg.Rewrites[host]; to != "" {
		return to + strings.TrimPrefix(named.String(), host)
	}
	return name
}

// tagPulled gives an image that was pulled under another name its own. The Engine takes no name with a digest: see engineName.
func (s *Server) tagPulled(ctx context.Context, pulled, name string) error {
	if pulled == name || isDigest(name) {
		return nil
	}
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(ctx, 0)
	defer cancel()
	return s.docker.ImageTag(ctx, pulled, named.String())
}

// engineName returns the name under which the Engine has an image. It differs for a name with a digest whose registry is rewritten.
func (s *Server) engineName(ctx context.Context, name string) string {
	pulled := s.pullName(name)
	if pulled == name || !isDigest(name) {
		return name
	}
	if _, err := s.docker.ImageInspect(ctx, name); !isNotFound(err) {
		return name // from before the rewrite
	}
	return pulled
}

// originalDigests adds the names with a digest under which images may be known whose registry is rewritten.
func (s *Server) originalDigests(digests []string) []string {
	for _, digest := range digests {
		for from, to := range s.cfg.Rewrites {
			rest, ok := strings.CutPrefix(digest, to+"/")
			if !ok {
				continue
			}
			named, err := reference.ParseNormalizedNamed(from + "/" + rest)
			if err == nil && !slices.Contains(digests, reference.FamiliarString(named)) {
				digests = append(digests, reference.FamiliarString(named))
			}
		}
	}
	return digests
}

// pullWithCredentials pulls an image with the credentials that the kubelet gives for its name. If it is pulled under another name, the
// node's own for that name come next: the kubelet does not know the name.
func (s *Server) pullWithCredentials(ctx context.Context, r *runtimeapi.PullImageRequest, pulled string) error {
	name := r.GetImage().GetImage()
	var tries []string
	if a := r.GetAuth(); a != nil {
		encoded, err := registryAuth(a)
		if err != nil {
			return refuse("cannot use the credentials for %s: %v", name, err)
		}
		tries = append(tries, encoded)
	}
	if pulled != name {
		own, err := s.nodeCredentials(pulled)
		if err != nil {
			return err
		}
		tries = append(tries, own...)
	}
	if len(tries) == 0 {
		tries = []string{""}
	}
	var problems []error
	for _, auth := range tries {
		err := s.pull(ctx, pulled, image.PullOptions{RegistryAuth: auth})
		if err == nil {
			return nil
		}
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// nodeCredentials returns the node's credentials for an image, encoded for the Engine.
func (s *Server) nodeCredentials(name string) (encoded []string, err error) {
	data, err := os.ReadFile(s.cfg.Credentials)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the node's credentials: %w", err)
	}
	config, err := credentials.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.cfg.Credentials, err)
	}
	for _, c := range config.For(name) {
		one, err := registry.EncodeAuthConfig(registry.AuthConfig{
			Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
		})
		if err != nil {
			return nil, err
		}
		encoded = append(encoded, one)
	}
	return encoded, nil
}
