// Package snapshot saves all that a cluster's control plane cannot make anew to one file, and makes a state directory of such a file:
// etcd's keys, the certificate authorities with their certificates, and the keys that secrets are encrypted with. It knows the file's
// format, and when to save and what to remove. Logs and metrics are not in it. It must never import k8s.io/kubernetes.
//
// Start reading at Save and Restore; archive.go has the format.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	client "go.etcd.io/etcd/client/v3/snapshot"
	etcdutl "go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/k8sm/k8sm/api"
	"github.com/k8sm/k8sm/api/state"
	"github.com/k8sm/k8sm/api/statedir"
)

// Names of files in a snapshot; those of the state directory have the names that they have there.
const (
	etcdFile  = "etcd.db"
	pkiFolder = "pki"
)

// attempts is how often etcd is copied until all keys for the secrets in the copy are there, while keys are changed.
const attempts = 3

// Source is a control plane that is saved.
type Source struct {
	Dir statedir.Dir
	// Etcd is how to reach its etcd as a user with the role root. Each endpoint is tried until one member gives a copy.
	Etcd clientv3.Config
}

// Save writes a snapshot of a cluster that runs to the file. The file appears at once and whole, and only its owner may read it. An
// existing file is replaced. The disk needs room for two copies of etcd's data for a while.
func Save(ctx context.Context, from Source, file string) (m Manifest, err error) {
	work, err := os.MkdirTemp(filepath.Dir(file), tempPrefix)
	if err != nil {
		return m, fmt.Errorf("cannot save a snapshot: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	m, contents, err := from.collect(ctx, filepath.Join(work, etcdFile))
	if err != nil {
		return m, fmt.Errorf("cannot save a snapshot: %w", err)
	}
	whole := filepath.Join(work, "snapshot.tar")
	if err := writeArchive(whole, &m, contents); err != nil {
		return m, fmt.Errorf("cannot save a snapshot: %w", err)
	}
	if err := os.Rename(whole, file); err != nil {
		return m, fmt.Errorf("cannot save a snapshot: %w", err)
	}
	return m, nil
}

// collect copies etcd to the file, and returns what belongs to the copy.
func (s Source) collect(ctx context.Context, copied string) (m Manifest, contents []content, err error) {
	m = Manifest{Format: format, Created: time.Now().UTC().Truncate(time.Second), KM: api.Version}
	if m.CA, err = authorityOf(s.Dir); err != nil {
		return m, nil, err
	}
	keys, err := s.copyEtcd(ctx, copied, &m)
	if err != nil {
		return m, nil, err
	}
	if !keys.empty() {
		data, err := keys.encode()
		if err != nil {
			return m, nil, err
		}
		contents = append(contents, content{name: filepath.Base(s.Dir.EncryptionConfig()), data: data})
	}
	if _, err := os.Stat(s.Dir.EncryptionUnfinished()); err == nil {
		contents = append(contents, content{name: filepath.Base(s.Dir.EncryptionUnfinished()), data: []byte{}})
	}
	files, err := os.ReadDir(filepath.Dir(s.Dir.CA()))
	if err != nil {
		return m, nil, fmt.Errorf("cannot read the certificates: %w", err)
	}
	for _, f := range files {
		if !f.Type().IsRegular() || strings.HasSuffix(f.Name(), ".new") { // half written
			continue
		}
		data, err := os.ReadFile(filepath.Join(filepath.Dir(s.Dir.CA()), f.Name()))
		if err != nil {
			return m, nil, fmt.Errorf("cannot read the certificates: %w", err)
		}
		contents = append(contents, content{name: pkiFolder + "/" + f.Name(), data: data})
	}
	return m, append(contents, content{name: etcdFile, path: copied}), nil
}

// copyEtcd copies etcd to the file, and returns the keys that decrypt the copy's secrets. A key may be replaced meanwhile: those of
// before and after the copy are the ones that there were, unless it was replaced twice.
func (s Source) copyEtcd(ctx context.Context, file string, m *Manifest) (keyring, error) {
	before, err := readKeys(s.Dir)
	if err != nil {
		return keyring{}, err
	}
	for try := 1; ; try++ {
		if m.Etcd.Version, err = s.copyMember(ctx, file); err != nil {
			return keyring{}, err
		}
		after, err := readKeys(s.Dir)
		if err != nil {
			return keyring{}, err
		}
		keys := after.and(before)
		status, err := etcdutl.NewV3(zap.NewNop()).Status(file)
		if err != nil {
			return keyring{}, fmt.Errorf("cannot use the copy of etcd: %w", err)
		}
		used, err := usedKeys(file)
		if err != nil {
			return keyring{}, err
		}
		m.Etcd.Revision, m.Etcd.Keys = status.Revision, status.TotalKey
		m.OtherKeys = slices.DeleteFunc(used, keys.has)
		if len(m.OtherKeys) == 0 || try == attempts {
			return keys, nil
		}
		before = keys
	}
}

// copyMember copies the first member that gives a copy, and returns its version.
func (s Source) copyMember(ctx context.Context, file string) (version string, err error) {
	if len(s.Etcd.Endpoints) == 0 {
		return "", errors.New("cannot copy etcd: no member is known")
	}
	var errs []error
	for _, endpoint := range s.Etcd.Endpoints {
		one := s.Etcd
		one.Endpoints = []string{endpoint}
		version, err := copyOne(ctx, one, file)
		if err == nil {
			return version, nil
		}
		errs = append(errs, fmt.Errorf("cannot copy etcd from %s: %w", endpoint, err))
		if ctx.Err() != nil {
			break
		}
	}
	return "", errors.Join(errs...)
}

// memberTimeout bounds how long a member may take to say that it is there.
const memberTimeout = 5 * time.Second

// copyOne copies a member unless it is not there or a learner, which may be behind.
func copyOne(ctx context.Context, member clientv3.Config, file string) (version string, err error) {
	c, err := clientv3.New(member)
	if err != nil {
		return "", err
	}
	soon, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	status, err := c.Status(soon, member.Endpoints[0])
	if err := errors.Join(err, c.Close()); err != nil {
		return "", err
	}
	if status.IsLearner {
		return "", errors.New("it is a learner")
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return client.SaveWithVersion(ctx, zap.NewNop(), member, file)
}

// ErrNotEmpty says that there is a state directory already.
var ErrNotEmpty = errors.New("it is not empty")

// bump is by how much the revision of a restored etcd is greater than the snapshot's, and that all revisions up to there count as
// compacted. So a client that has seen a later revision than the snapshot's lists anew, instead of taking old for new
// (https://etcd.io/docs/v3.6/op-guide/recovery/#restoring-with-revision-bump).
const bump = 1_000_000_000

// Member is the name of the only member of a restored etcd, and MemberPeer its peer URL: those of an etcd that has never had peers.
const (
	Member     = "k8sm"
	MemberPeer = "http://localhost:2380"
)

// Restore makes a state directory from the file. The directory must be empty or missing. The file is verified first. A control plane
// or `km etcd` that starts there has the snapshot's objects in an etcd with one member.
func Restore(file string, dir statedir.Dir) (m Manifest, err error) {
	if err := os.MkdirAll(string(dir), 0o700); err != nil {
		return m, fmt.Errorf("cannot restore to %s: %w", dir, err)
	}
	there, err := os.ReadDir(string(dir))
	if err != nil {
		return m, fmt.Errorf("cannot restore to %s: %w", dir, err)
	}
	if len(there) > 0 {
		return m, fmt.Errorf("cannot restore to %s: %w: move it away, or set --state-dir", dir, ErrNotEmpty)
	}
	work := filepath.Join(string(dir), tempPrefix+"restore")
	if err := os.Mkdir(work, 0o700); err != nil {
		return m, fmt.Errorf("cannot restore to %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if m, err = readArchive(file, work); err != nil {
		return m, fmt.Errorf("cannot restore %s: %w", file, err)
	}
	if err := check(m, statedir.Dir(work)); err != nil {
		return m, fmt.Errorf("cannot restore %s: %w", file, err)
	}
	if err := restoreEtcd(work); err != nil {
		return m, fmt.Errorf("cannot restore %s: %w", file, err)
	}
	// etcd comes last: without it, a control plane would begin a new cluster, but one whose CA and keys are there.
	return m, moveAll(work, string(dir), filepath.Base(dir.EtcdData()))
}

// check looks for what a control plane could not do without.
func check(m Manifest, extracted statedir.Dir) error {
	got, err := authorityOf(extracted)
	if err != nil {
		return err
	}
	if got != m.CA {
		return fmt.Errorf("its CA is %s, and its manifest says %s", got, m.CA)
	}
	keys, err := readKeys(extracted)
	if err != nil {
		return err
	}
	used, err := usedKeys(filepath.Join(string(extracted), etcdFile))
	if err != nil {
		return err
	}
	for _, name := range used {
		if !keys.has(name) && !slices.Contains(m.OtherKeys, name) {
			return fmt.Errorf("the key %s of its secrets is missing", name)
		}
	}
	return nil
}

// authorityOf is what a manifest says of the CA in the directory. The machine of a member of etcd needs none.
func authorityOf(dir statedir.Dir) (string, error) {
	ca, err := dir.CACertificates()
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return state.AuthoritiesOf(ca)[0].SHA256, nil
}

// restoreEtcd replaces the copy in the folder by etcd's data directory.
func restoreEtcd(work string) error {
	copied := filepath.Join(work, etcdFile)
	err := etcdutl.NewV3(zap.NewNop()).Restore(etcdutl.RestoreConfig{
		SnapshotPath: copied, OutputDataDir: statedir.Dir(work).EtcdData(), Name: Member,
		PeerURLs: []string{MemberPeer}, InitialCluster: Member + "=" + MemberPeer, InitialClusterToken: "k8sm-" + time.Now().UTC().Format(time.RFC3339Nano),
		RevisionBump: bump, MarkCompacted: true,
	})
	if err != nil {
		return fmt.Errorf("cannot restore etcd: %w", err)
	}
	return os.Remove(copied)
}

// moveAll moves all files from one folder to another, the named one last.
func moveAll(from, to, last string) error {
	files, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	slices.SortFunc(files, func(a, b fs.DirEntry) int {
		switch last {
		case a.Name():
			return 1
		case b.Name():
			return -1
		}
		return strings.Compare(a.Name(), b.Name())
	})
	for _, f := range files {
		if err := os.Rename(filepath.Join(from, f.Name()), filepath.Join(to, f.Name())); err != nil {
			return err
		}
	}
	return nil
}
