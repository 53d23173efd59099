package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/sirupsen/logrus"
)

const (
	// damagedDir has what cannot be read, until it is as old as the retention.
	damagedDir = "damaged"
	// futureDir has the blocks of times that have not come yet.
	futureDir = "future"
	// maxAside bounds how many things are in damagedDir.
	maxAside = 100
)

// sweep moves the blocks aside that cannot be read or are ahead of the clock, and takes those back whose time has come. The database must
// be closed.
func (s *store) sweep() error {
	s.tidy()
	blocks, err := blocksIn(s.cfg.Dir)
	if err != nil {
		return err
	}
	for _, path := range blocks {
		meta, err := openable(path)
		switch {
		case err != nil:
			kept, moved := s.moveAside(path)
			if moved != nil {
				return moved
			}
			s.log.WithError(err).Warnf("a block of the metrics' history is damaged: it is moved to %s, the others are kept", kept)
		case s.isFuture(meta):
			if err := s.postpone(path, meta); err != nil {
				return err
			}
		case meta.MaxTime > s.clock.now().UnixMilli() && !meta.Compaction.FromOutOfOrder():
			if err := loosen(path, meta); err != nil {
				return fmt.Errorf("cannot change %s: %w", path, err)
			}
		}
	}
	return s.takeBack()
}

// blocksIn are the paths of the blocks in a directory.
func blocksIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var blocks []string
	for _, entry := range entries {
		if _, err := ulid.ParseStrict(entry.Name()); err == nil && entry.IsDir() {
			blocks = append(blocks, filepath.Join(dir, entry.Name()))
		}
	}
	return blocks, nil
}

// openable opens a block and closes it. It returns what the block says of itself.
func openable(path string) (meta tsdb.BlockMeta, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("cannot read %s: %v", path, cause)
		}
	}()
	block, err := tsdb.OpenBlock(nil, path, nil, tsdb.DefaultPostingsDecoderFactory)
	if err != nil {
		return tsdb.BlockMeta{}, fmt.Errorf("cannot read %s: %w", path, err)
	}
	meta = block.Meta()
	if meta.ULID.String() != filepath.Base(path) {
		err = fmt.Errorf("cannot read %s: it says that it is %s", path, meta.ULID)
	}
	return meta, errors.Join(err, block.Close())
}

// isFuture reports whether a block is ahead of the clock.
func (s *store) isFuture(meta tsdb.BlockMeta) bool {
	return meta.MinTime > s.clock.now().Add(maxAhead).UnixMilli()
}

// postpone moves a block to where it waits for its time.
func (s *store) postpone(path string, meta tsdb.BlockMeta) error {
	dir := filepath.Join(s.cfg.Dir, futureDir)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	to := filepath.Join(dir, filepath.Base(path))
	s.log.WithField("from", time.UnixMilli(meta.MinTime).UTC()).Warnf("a block of the metrics' history is ahead of the clock: it waits in %s", to)
	return os.Rename(path, to)
}

// loosen lets samples be appended that are in the time of a block. Otherwise the database takes none that are older than its end, which
// the clock has not reached.
func loosen(path string, meta tsdb.BlockMeta) error {
	meta.Compaction.SetOutOfOrder()
	content, err := json.MarshalIndent(meta, "", "\t")
	if err != nil {
		return err
	}
	file := filepath.Join(path, "meta.json")
	if err := os.WriteFile(file+".tmp", content, 0o640); err != nil {
		return err
	}
	return os.Rename(file+".tmp", file)
}

// takeBack moves the blocks back whose time has come. The database may be open: it finds them.
func (s *store) takeBack() error {
	blocks, err := blocksIn(filepath.Join(s.cfg.Dir, futureDir))
	if err != nil {
		return err
	}
	for _, path := range blocks {
		content, err := os.ReadFile(filepath.Join(path, "meta.json"))
		if err != nil {
			return err
		}
		var meta tsdb.BlockMeta
		if err := json.Unmarshal(content, &meta); err != nil {
			return fmt.Errorf("cannot read %s: %w", path, err)
		}
		if s.isFuture(meta) {
			continue
		}
		s.log.WithField("block", meta.ULID).Info("the time of a block of the metrics' history has come: it is part of the history again")
		if err := os.Rename(path, filepath.Join(s.cfg.Dir, filepath.Base(path))); err != nil {
			return err
		}
	}
	return nil
}

// asidePath is where something that is damaged goes.
func (s *store) asidePath(name string) (string, error) {
	dir := filepath.Join(s.cfg.Dir, damagedDir)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	return filepath.Join(dir, s.clock.now().UTC().Format("20060102T150405.000")+"-"+name), nil
}

// moveAside moves something that is damaged. It returns where it is.
func (s *store) moveAside(path string) (string, error) {
	to, err := s.asidePath(filepath.Base(path))
	if err != nil {
		return "", err
	}
	return to, os.Rename(path, to)
}

// tidy deletes what was moved aside long ago. An error is logged: it harms nothing.
func (s *store) tidy() {
	dir := filepath.Join(s.cfg.Dir, damagedDir)
	entries, err := os.ReadDir(dir) // by name, which begins with the time
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.WithError(err).Warn("cannot tidy up the metrics' history")
	}
	slices.Reverse(entries)
	for i, entry := range entries {
		info, err := entry.Info()
		if err != nil || i < maxAside && s.clock.now().Sub(info.ModTime()) < s.cfg.Retention {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			s.log.WithError(err).Warn("cannot tidy up the metrics' history")
		}
	}
}

// suspectDamage asks for a look at all blocks.
func (s *store) suspectDamage() {
	select {
	case s.suspect <- struct{}{}:
	default:
	}
}

// inspect reads all blocks. It moves copies of the damaged ones aside and lets the database delete them.
func (s *store) inspect(ctx context.Context) {
	for _, block := range s.db.Blocks() {
		err := readable(ctx, block)
		if errors.Is(err, tsdb.ErrClosing) || ctx.Err() != nil {
			continue
		}
		if err != nil {
			s.doom(block, err)
		}
	}
}

// readable reads a block as a whole.
func readable(ctx context.Context, block *tsdb.Block) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("cannot read it: %v", cause)
		}
	}()
	index, err := block.Index()
	if err != nil {
		return err
	}
	defer index.Close()
	chunks, err := block.Chunks()
	if err != nil {
		return err
	}
	defer chunks.Close()
	return readAll(ctx, index, chunks)
}

// doom makes the database delete a damaged block, once its files are linked to where damaged ones are.
func (s *store) doom(block *tsdb.Block, cause error) {
	id := block.Meta().ULID
	s.mu.Lock()
	_, told := s.doomed[id]
	s.doomed[id] = struct{}{}
	s.mu.Unlock()
	if told {
		return
	}
	log := s.log.WithError(cause).WithFields(logrus.Fields{
		"from": time.UnixMilli(block.Meta().MinTime).UTC(), "to": time.UnixMilli(block.Meta().MaxTime).UTC(),
	})
	to, err := s.asidePath(id.String())
	if err == nil {
		err = link(block.Dir(), to)
	}
	if err != nil {
		log.Warnf("a block of the metrics' history is damaged: it is deleted, because it cannot be moved aside: %v", err)
		return
	}
	log.Warnf("a block of the metrics' history is damaged: it is moved to %s, the others are kept", to)
}

// link makes a directory with the same files as another.
func link(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, relative), 0o750)
		}
		return os.Link(path, filepath.Join(to, relative))
	})
}
