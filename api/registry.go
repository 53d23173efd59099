package api

import (
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
)

// CheckRegistry returns an error for text that cannot be the registry in the name of an image, "host" or "host:port"
// (https://github.com/distribution/reference/blob/main/reference.go has the grammar).
func CheckRegistry(host string) error {
	if strings.Contains(host, "://") {
		return fmt.Errorf("%q begins with a scheme: give the registry as the names of images have it, HOST or HOST:PORT", host)
	}
	named, err := reference.ParseNormalizedNamed(host + "/image")
	if err != nil || strings.Contains(host, "/") {
		return fmt.Errorf("%q is not a registry: give HOST or HOST:PORT", host)
	}
	if reference.Domain(named) != host {
		return fmt.Errorf("%q stands for Docker Hub, or for a folder of it: the host of another registry has a dot or a port, or is localhost", host)
	}
	return nil
}

// checkImageRewrites returns an error for rewrites that cannot be names of images, or of which one would follow another.
func checkImageRewrites(rewrites map[string]string) error {
	for from, to := range rewrites {
		if err := checkImageRewrite(from, to); err != nil {
			return fmt.Errorf("cannot use --image-rewrite=%s=%s: %w", from, to, err)
		}
		host, _, _ := strings.Cut(to, "/")
		if _, again := rewrites[host]; again {
			return fmt.Errorf("cannot use --image-rewrite=%s=%s: the images of %s are pulled from elsewhere, too, and only one rewrite applies to an image", from, to, host)
		}
	}
	return nil
}

func checkImageRewrite(from, to string) error {
	if err := CheckRegistry(from); err != nil {
		return err
	}
	if strings.Contains(to, "://") {
		return errors.New("give the target without a scheme, as HOST, HOST:PORT or HOST/FOLDER")
	}
	host, _, _ := strings.Cut(to, "/")
	if err := CheckRegistry(host); err != nil {
		return err
	}
	if named, err := reference.ParseNormalizedNamed(to + "/image"); err != nil || named.Name() != to+"/image" {
		return fmt.Errorf("%q cannot begin the name of an image: give HOST, HOST:PORT or HOST/FOLDER", to)
	}
	return nil
}
