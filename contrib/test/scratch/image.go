package scratch

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

// ImportImage makes an image that holds one static program and nothing else, and runs it by default. It replaces an image
// of that name. path is where the program stands in the image, such as "/web".
// (https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Image/operation/ImageCreate)
func ImportImage(ctx context.Context, docker *client.Client, name, path string, program []byte) error {
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	header := &tar.Header{Name: strings.TrimPrefix(path, "/"), Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	if _, err := w.Write(program); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	answer, err := docker.ImageImport(ctx, image.ImportSource{Source: &files, SourceName: "-"}, name,
		image.ImportOptions{Changes: []string{fmt.Sprintf("ENTRYPOINT [%q]", path)}})
	if err != nil {
		return fmt.Errorf("cannot import image %s: %w", name, err)
	}
	defer answer.Close()
	_, err = io.Copy(io.Discard, answer)
	return err
}
