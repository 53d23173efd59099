package cri

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/image"
	"github.com/google/uuid"
)

// pulledImages records which of the Engine's images this node has pulled: the kubelet may remove only those. The Engine serves
// others, too, and Docker cannot label images, so each has a file in dir.
//
// A pull is recorded before it begins, with all images of the Engine. A later process that finds the record, also after a kill -9,
// can tell the images that came with the pull from those that were there before.
type pulledImages struct {
	dir string

	mu     sync.Mutex // guards images and the files in dir
	images map[string]*pulledImage
}

// pulledImage is an image that came with a pull of ours. It is immutable: a change makes a new one.
type pulledImage struct {
	ID string `json:"id"`
	// References are the names under which we pulled it, with a tag or a digest. Names from others are not among them.
	References []string `json:"references"`
}

// pullNote records the beginning of a pull.
type pullNote struct {
	Image string `json:"image"`
	// From is the name under which the Engine pulls it; "" in notes of older versions.
	From string `json:"from,omitempty"`
	// There has the names of all images that the Engine had, by id.
	There map[string][]string `json:"there"`

	path string
}

const (
	pulledSuffix = ".pulled"
	noteSuffix   = ".pulling"
)

// load reads the records of an earlier server, and returns its unfinished pulls.
func (p *pulledImages) load() (unfinished []pullNote, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.images = map[string]*pulledImage{}
	entries, err := os.ReadDir(p.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, entry := range entries {
		path := filepath.Join(p.dir, entry.Name())
		switch filepath.Ext(path) {
		case pulledSuffix:
			found := new(pulledImage)
			if err = errors.Join(err, readJSON(path, found)); found.ID != "" {
				p.images[found.ID] = found
			}
		case noteSuffix:
			note := pullNote{path: path}
			if err = errors.Join(err, readJSON(path, &note)); note.Image != "" {
				unfinished = append(unfinished, note)
			}
		}
	}
	return unfinished, err
}

func readJSON(path string, value any) error {
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, value)
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	return nil
}

// write writes the file atomically, in case this process is killed.
func (p *pulledImages) write(path string, value any) error {
	data, err := json.Marshal(value)
	if err == nil {
		err = os.MkdirAll(p.dir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(path+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	return err
}

// begin records a pull.
func (p *pulledImages) begin(name, pulled string, there []image.Summary) (pullNote, error) {
	note := pullNote{Image: name, From: pulled, There: map[string][]string{}, path: filepath.Join(p.dir, uuid.NewString()+noteSuffix)}
	for _, i := range there {
		note.There[i.ID] = slices.Concat(i.RepoTags, i.RepoDigests)
	}
	if err := p.write(note.path, note); err != nil {
		return note, fmt.Errorf("cannot record the pull of %s: %w", name, err)
	}
	return note, nil
}

// end records the image that a pull resolved to, and removes the note. The image is ours if it came with the pull, and not if it was
// there before. The same holds for its names.
func (p *pulledImages) end(note pullNote, i image.InspectResponse) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, ours := p.images[i.ID]
	had, was := note.There[i.ID]
	names := slices.DeleteFunc(note.names(i), func(name string) bool { return slices.Contains(had, name) })
	// An image without a registry digest was not pulled: someone loaded it under this name after a failed pull.
	if ours || !was && slices.ContainsFunc(names, isDigest) {
		now := &pulledImage{ID: i.ID, References: names}
		if ours {
			now.References = slices.Compact(slices.Sorted(slices.Values(append(names, before.References...))))
		}
		if err := p.write(p.file(i.ID), now); err != nil {
			return fmt.Errorf("cannot record the end of the pull of %s: %w", note.Image, err)
		}
		p.images[i.ID] = now
	}
	return p.drop(note)
}

// drop removes the note of a pull that brought no image.
func (p *pulledImages) drop(note pullNote) error {
	if err := os.Remove(note.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove the note of a pull: %w", err)
	}
	return nil
}

// names returns the names that an image got from a pull.
func (n pullNote) names(i image.InspectResponse) []string {
	names := pulledNames(n.Image, i)
	if n.From != "" && n.From != n.Image {
		names = append(names, pulledNames(n.From, i)...)
	}
	return names
}

// pulledNames returns the names that an image got from a pull: the pulled name, and the digests in its repository.
func pulledNames(name string, i image.InspectResponse) (names []string) {
	named, err := reference.ParseDockerRef(name) // as Docker does: adds "latest", and prefers a digest to a tag
	if err != nil {
		return nil
	}
	wanted := reference.FamiliarString(named)
	repository := reference.FamiliarName(named) + "@"
	for _, has := range append(slices.Clone(i.RepoTags), i.RepoDigests...) {
		if has == wanted || strings.HasPrefix(has, repository) {
			names = append(names, has)
		}
	}
	return names
}

func isDigest(name string) bool { return strings.Contains(name, "@") }

func (p *pulledImages) file(id string) string {
	return filepath.Join(p.dir, strings.ReplaceAll(id, ":", "-")+pulledSuffix)
}

// find returns the image with this id if it is ours, else nil.
func (p *pulledImages) find(id string) *pulledImage {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.images[id]
}

// forget forgets an image that is gone or belongs to others now, unless it was pulled again.
func (p *pulledImages) forget(gone *pulledImage) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.images[gone.ID] != gone {
		return nil
	}
	if err := os.Remove(p.file(gone.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot forget an image: %w", err)
	}
	delete(p.images, gone.ID)
	return nil
}

// all returns the images that are ours.
func (p *pulledImages) all() []*pulledImage {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.images))
}

// split separates the names under which we pulled an image from those that others gave it. For a nil image all names are others'.
func (i *pulledImage) split(names []string) (ours, others []string) {
	for _, name := range names {
		if i != nil && slices.Contains(i.References, name) {
			ours = append(ours, name)
		} else {
			others = append(others, name)
		}
	}
	return ours, others
}

// settlePulls finishes the records of pulls that earlier servers left unfinished.
func (s *Server) settlePulls(ctx context.Context) {
	unfinished, err := s.pulled.load()
	if err != nil {
		s.log.WithError(err).Warn("cannot read the records of pulled images: some will not be removed when the disk is full")
	}
	for _, note := range unfinished {
		s.settlePull(ctx, note)
	}
}

// settlePull records what a pull brought, whether it succeeded or not. If the Engine does not answer, the note stays for the next
// server.
func (s *Server) settlePull(ctx context.Context, note pullNote) {
	ctx, cancel := s.bound(context.WithoutCancel(ctx), 0)
	defer cancel()
	i, err := s.docker.ImageInspect(ctx, cmp.Or(note.From, note.Image))
	switch {
	case isNotFound(err):
		err = s.pulled.drop(note)
	case err == nil:
		err = s.pulled.end(note, i)
	}
	if err != nil {
		s.log.WithError(err).WithField("image", note.Image).Warn("cannot record the result of a pull")
	}
}
