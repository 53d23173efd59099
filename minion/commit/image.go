package commit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"
)

// localName is the name in Docker Engine of the node's images that are on their way to a registry; their tags are UIDs of Commits.
func (c Config) localName() string { return "k8sm.io/commit/" + c.Node }

// dir has the files of this Commit's attempt: the cgroup of the container that may be frozen, and the saved image.
func (a *attempt) dir() string         { return filepath.Join(a.Dir, string(a.commit.UID)) }
func (a *attempt) freezerFile() string { return filepath.Join(a.dir(), freezerFile) }

const freezerFile = "freezer"

// image makes the image: the files of the container, with the configuration of the image that the container runs. paused is how long
// the container was paused at most.
func (a *attempt) image(ctx context.Context, to *destination) (made v1.Image, paused time.Duration, err error) {
	if err := os.MkdirAll(a.dir(), 0o700); err != nil {
		return nil, 0, fmt.Errorf("cannot make a directory for the image: %w", err)
	}
	f, err := freezerOf(a.container.ID, a.container.State.Pid)
	if err != nil {
		return nil, 0, err
	}
	// First, because whoever comes after a kill has to let the container run again.
	if err := os.WriteFile(a.freezerFile(), []byte(f), 0o600); err != nil {
		return nil, 0, fmt.Errorf("cannot note which container is committed: %w", err)
	}
	if a.upper != "" {
		if made, paused, err = a.copied(ctx, f, to); !errors.Is(err, errForeign) {
			return made, paused, err
		}
	}
	return a.engineImage(ctx, f)
}

// copied makes the image of a copy of the container's changes, and of the image that the container runs.
func (a *attempt) copied(ctx context.Context, f freezer, to *destination) (_ v1.Image, paused time.Duration, err error) {
	s := snapshot{upper: a.upper, dir: filepath.Join(a.dir(), "files"), copied: map[uint64]bool{}}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, 0, fmt.Errorf("cannot make a directory for the container's changes: %w", err)
	}
	if paused, err = s.take(ctx, f.freeze, f.thaw); err != nil {
		return nil, paused, fmt.Errorf("cannot copy the changes of container %s: %w", a.commit.Spec.Container, err)
	}
	file := filepath.Join(a.dir(), "layer.tar.gz")
	if err := errors.Join(s.writeLayer(file), os.RemoveAll(s.dir)); err != nil {
		return nil, paused, fmt.Errorf("cannot make a layer of the changes of container %s: %w", a.commit.Spec.Container, err)
	}
	base, err := a.base(ctx, to)
	if err != nil {
		return nil, paused, err
	}
	layer, err := tarball.LayerFromFile(file)
	if err != nil {
		return nil, paused, fmt.Errorf("cannot read the layer of the changes: %w", err)
	}
	now := v1.Time{Time: time.Now()}
	made, err := mutate.Append(base, mutate.Addendum{Layer: layer, History: a.history(now)})
	if err == nil {
		made, err = mutate.CreatedAt(made, now)
	}
	return made, paused, err
}

// base returns the image that the container runs: as the destination has it, if that is where it came from, or from Docker Engine.
func (a *attempt) base(ctx context.Context, to *destination) (v1.Image, error) {
	there, err := a.Docker.ImageInspect(ctx, a.container.Image)
	if err != nil {
		return nil, fmt.Errorf("cannot inspect the image that container %s runs: %w", a.commit.Spec.Container, err)
	}
	if found := to.find(ctx, there.ID, there.RepoDigests); found != nil {
		return found, nil
	}
	return a.save(ctx, a.container.Image)
}

// history is what the image says of its last layer.
func (a *attempt) history(created v1.Time) v1.History {
	return v1.History{Created: created, CreatedBy: "km commit", Comment: fmt.Sprintf("container %s of pod %s/%s", a.commit.Spec.Container, a.commit.Namespace, a.commit.Spec.PodName)}
}

// engineImage lets Docker Engine make the image, with the container paused all the while.
func (a *attempt) engineImage(ctx context.Context, f freezer) (_ v1.Image, paused time.Duration, err error) {
	var made container.CommitResponse
	begin := time.Now()
	if err = f.freeze(); err == nil {
		made, err = a.Docker.ContainerCommit(ctx, a.container.ID, container.CommitOptions{Reference: a.localName() + ":" + string(a.commit.UID)})
	}
	err = errors.Join(err, f.thaw())
	paused = time.Since(begin)
	if err != nil {
		return nil, paused, fmt.Errorf("cannot commit container %s in Docker Engine: %w", a.commit.Spec.Container, err)
	}
	saved, err := a.save(ctx, made.ID)
	if err != nil {
		return nil, paused, err
	}
	clean, err := a.clean(ctx, saved)
	return clean, paused, err
}

// save writes an image of the Engine to a file, and returns what is there.
func (a *attempt) save(ctx context.Context, id string) (v1.Image, error) {
	saved, err := a.Docker.ImageSave(ctx, []string{id})
	if err != nil {
		return nil, fmt.Errorf("cannot save the image from Docker Engine: %w", err)
	}
	defer saved.Close()
	file := filepath.Join(a.dir(), "image.tar")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot save the image: %w", err)
	}
	_, err = io.Copy(f, saved)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("cannot save the image: %w", err)
	}
	image, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot read the image that Docker Engine saved: %w", err)
	}
	return image, nil
}

// clean gives an image of the container the configuration of the image that the container runs: Docker has put the container's
// environment, labels and command there, and the command in the history, too.
func (a *attempt) clean(ctx context.Context, saved v1.Image) (v1.Image, error) {
	base, err := a.Docker.ImageInspect(ctx, a.container.Image)
	if err != nil {
		return nil, fmt.Errorf("cannot inspect the image that container %s runs: %w", a.commit.Spec.Container, err)
	}
	config, err := saved.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration that Docker Engine saved: %w", err)
	}
	if len(config.RootFS.DiffIDs) != len(base.RootFS.Layers)+1 {
		return nil, final("the image that container %s runs has %d layers, and the committed one %d: one more is expected",
			a.commit.Spec.Container, len(base.RootFS.Layers), len(config.RootFS.DiffIDs))
	}
	config = config.DeepCopy()
	config.Container, config.Author, config.Config = "", base.Author, v1.Config{}
	if base.Config != nil {
		text, err := json.Marshal(base.Config)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, &config.Config); err != nil {
			return nil, fmt.Errorf("cannot read the configuration of the image that container %s runs: %w", a.commit.Spec.Container, err)
		}
	}
	if last := len(config.History) - 1; last >= 0 {
		config.History[last] = a.history(config.Created)
	}
	return mutate.ConfigFile(saved, config)
}

// checkRoom fails if the disks have no room for the image: the whole image, and the changes once more, here or in the Engine.
func (a *attempt) checkRoom(ctx context.Context) error {
	info, err := a.Docker.Info(ctx)
	if err != nil {
		return fmt.Errorf("cannot reach Docker Engine: %w", err)
	}
	a.upper = a.upperDir(a.container, info)
	var changes, whole int64
	if a.container.SizeRw != nil {
		changes = *a.container.SizeRw
	}
	if a.container.SizeRootFs != nil {
		whole = *a.container.SizeRootFs
	}
	if err := os.MkdirAll(a.Dir, 0o700); err != nil {
		return fmt.Errorf("cannot make a directory for images: %w", err)
	}
	needs := map[string]int64{a.Dir: whole}
	if same, err := sameDisk(a.Dir, info.DockerRootDir); a.upper != "" || err == nil && same {
		needs[a.Dir] += changes
	} else if err == nil { // else the Engine is on another machine
		needs[info.DockerRootDir] += changes
	}
	for dir, need := range needs {
		room, err := a.room(dir)
		if err != nil {
			return err
		}
		if need > room {
			return final("no room on node %s: the image needs %s in %s, where %s are free; free space there, then commit again",
				a.Node, megabytes(need), dir, megabytes(max(room, 0)))
		}
	}
	return nil
}

// room is how many bytes may be written to a directory's disk.
func (c Config) room(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("cannot measure the disk of %s: %w", dir, err)
	}
	keep, err := keepFree(c.KeepFree, int64(fs.Blocks)*fs.Bsize)
	return int64(fs.Bavail)*fs.Bsize - keep, err
}

// keepFree returns what a quantity or a percentage is of a disk.
func keepFree(text string, disk int64) (int64, error) {
	if text == "" {
		return 0, nil
	}
	var percent float64
	if n, err := fmt.Sscanf(text, "%f%%", &percent); err == nil && n == 1 && text[len(text)-1] == '%' {
		return int64(float64(disk) * percent / 100), nil
	}
	quantity, err := resource.ParseQuantity(text)
	if err != nil {
		return 0, fmt.Errorf("cannot use the eviction threshold %q: %w", text, err)
	}
	return quantity.Value(), nil
}

func sameDisk(a, b string) (bool, error) {
	var first, second unix.Stat_t
	err := errors.Join(unix.Stat(a, &first), unix.Stat(b, &second))
	return first.Dev == second.Dev, err
}

func megabytes(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/1e6) }

// Tidy removes what the commits of a killed process have left: files in dir, and what a node has in Docker Engine. A container that was
// paused goes on. None may be running.
func Tidy(ctx context.Context, docker *client.Client, node, dir string) error {
	return Config{Docker: docker, Node: node, Dir: dir}.tidy(ctx)
}

// tidy removes what attempts have left on this machine. None may be running.
func (c Config) tidy(ctx context.Context) error {
	entries, err := os.ReadDir(c.Dir)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	problems := []error{err}
	for _, entry := range entries {
		dir := filepath.Join(c.Dir, entry.Name())
		err := resume(dir)
		if err == nil {
			err = os.RemoveAll(dir)
		}
		problems = append(problems, err)
	}
	return errors.Join(append(problems, c.removeImages(ctx))...)
}

// resume lets the container of an interrupted attempt run again.
func resume(dir string) error {
	path, err := os.ReadFile(filepath.Join(dir, freezerFile))
	if errors.Is(err, os.ErrNotExist) || err == nil && len(path) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return freezer(path).thaw()
}

func (c Config) removeImages(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := c.Docker.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("reference", c.localName()))})
	if err != nil {
		return fmt.Errorf("cannot list the images of commits: %w", err)
	}
	var problems []error
	for _, i := range list {
		for _, tag := range i.RepoTags {
			if _, err := c.Docker.ImageRemove(ctx, tag, image.RemoveOptions{}); err != nil && !cerrdefs.IsNotFound(err) {
				problems = append(problems, fmt.Errorf("cannot remove image %s: %w", tag, err))
			}
		}
	}
	return errors.Join(problems...)
}
