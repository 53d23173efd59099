package logs

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// directory is the directory of a container's logs, that of a pod if it has no container, or the one of all if it has no pod.
type directory struct{ pod, container string }

// watcher collects what the kernel says about directories (https://man7.org/linux/man-pages/man7/inotify.7.html).
type watcher struct {
	pods, components string // directories
	notify           *fsnotify.Watcher
	awake            chan struct{} // of size 1

	mu sync.Mutex // guards changed
	// changed are the directories in which something happened: true if that was more than writing.
	changed map[directory]bool
}

// newWatcher returns a watcher of directories of logs. awake is signalled when something happened.
func newWatcher(cfg Config, awake chan struct{}) (*watcher, error) {
	notify, err := fsnotify.NewBufferedWatcher(1024)
	if err != nil {
		return nil, err
	}
	return &watcher{pods: cfg.Logs, components: cfg.Components, notify: notify, awake: awake, changed: map[directory]bool{}}, nil
}

// run collects until ctx ends.
func (w *watcher) run(ctx context.Context) {
	defer w.notify.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-w.notify.Events:
			if !e.Has(fsnotify.Write) && !e.Has(fsnotify.Create) && !e.Has(fsnotify.Remove) && !e.Has(fsnotify.Rename) {
				continue
			}
			w.add(w.directoryOf(e.Name), e.Op != fsnotify.Write)
		case err := <-w.notify.Errors:
			if errors.Is(err, fsnotify.ErrEventOverflow) {
				w.add(directory{}, true)
			}
		}
	}
}

// directoryOf returns the directory that has the name.
func (w *watcher) directoryOf(name string) directory {
	if component, ok := strings.CutPrefix(name, w.components+"/"); ok && w.components != "" {
		component, _, _ = strings.Cut(component, "/")
		return directory{componentsPod, component}
	}
	below, _ := filepath.Rel(w.pods, name)
	switch parts := strings.Split(below, "/"); len(parts) {
	case 3:
		return directory{parts[0], parts[1]}
	case 2:
		return directory{pod: parts[0]}
	default:
		return directory{}
	}
}

// maxChanged bounds the directories that are remembered. If there are more, all are read.
const maxChanged = 10_000

func (w *watcher) add(d directory, scan bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.changed) >= maxChanged {
		clear(w.changed)
		d, scan = directory{}, true
	}
	w.changed[d] = w.changed[d] || scan
	select {
	case w.awake <- struct{}{}:
	default:
	}
}

// take returns the directories in which something happened since the last call.
func (w *watcher) take() map[directory]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := w.changed
	w.changed = map[directory]bool{}
	return changed
}
