package commiter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/api/commit"
)

// file is the path of the file of a pod_rc.
func (r *run) file(name string) string { return filepath.Join(r.dir, name+".yaml") }

// savedFile is the path of the file that has the old ReplicationController. kubectl takes no file of this name out of a directory: there
// the pod_rcs are in its place.
func (r *run) savedFile(name string) string { return filepath.Join(r.dir, name+".old") }

// writeFile replaces a file at once: whoever reads it finds the old text or the new one, whole.
func writeFile(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("cannot make a directory for %s: %w", path, err)
	}
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, errors.Join(err, os.Remove(part)))
	}
	return nil
}

// readRC reads a ReplicationController from its file; nil if there is none.
func (r *run) readRC(path string) (*corev1.ReplicationController, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read a file of the component: %w", err)
	}
	rc, err := commit.Unmarshal(text)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", path, err)
	}
	return rc, nil
}

// saveOld writes and uploads the old controller, with an annotation that says how far its take-over is.
func (r *run) saveOld(ctx context.Context, rc *corev1.ReplicationController, annotation, podRCs string) error {
	rc = commit.Saved(rc)
	if rc.Annotations == nil {
		rc.Annotations = map[string]string{}
	}
	delete(rc.Annotations, commit.AnnotationTakeover)
	rc.Annotations[annotation] = podRCs
	text, err := commit.Marshal(rc)
	if err != nil {
		return err
	}
	if err := writeFile(r.savedFile(rc.Name), text); err != nil {
		return err
	}
	r.say("saved rc/%s in %s", rc.Name, r.savedFile(rc.Name))
	return r.uploadFile(ctx, r.savedFile(rc.Name))
}

// uploadFile uploads a file of the directory, if that is wanted.
func (r *run) uploadFile(ctx context.Context, file string) error {
	if r.to == nil {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot upload %s: %w", file, err)
	}
	name := filepath.Base(file)
	path := r.to.path(r.Folder(), name)
	if err := r.to.put(ctx, r.Folder(), name, text); err != nil {
		return fmt.Errorf("cannot upload %s to %s: %w", path, r.to, err)
	}
	r.say("uploaded %s to %s", path, r.to)
	return nil
}
