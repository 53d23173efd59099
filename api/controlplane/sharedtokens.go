package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/k8sm/k8sm/api/etcd"
	"github.com/k8sm/k8sm/api/secretkeys"
	"github.com/k8sm/k8sm/api/statedir"
)

// sharedTokensKey is where etcd has the keys of service accounts' tokens, once they were changed, beside those of secrets.
const sharedTokensKey = "/k8sm-keys/tokens"

// sharedTokens are keys that all control planes take over when they start.
type sharedTokens struct {
	// Current, Next and Old are their ids, and Replaced is when Old was replaced, as statedir.TokenKeys has them.
	Current  string    `json:"current"`
	Next     string    `json:"next,omitempty"`
	Old      string    `json:"old,omitempty"`
	Replaced time.Time `json:"replaced,omitzero"`
	// Retired are the ids of keys that signed before.
	Retired []string `json:"retired,omitempty"`
	// Sealed has the files.
	Sealed []byte `json:"sealed"`
}

// follow reports whether these keys come after the one that signs in a directory. If not, somebody has changed that by hand.
func (s sharedTokens) follow(current string) bool {
	return slices.Contains(append([]string{s.Current, s.Next, s.Old}, s.Retired...), current)
}

// said is what is sealed with the files.
func (s sharedTokens) said() ([]byte, error) {
	s.Sealed = nil
	return json.Marshal(s)
}

// readSharedTokens returns the revision 0 if there are none.
func readSharedTokens(ctx context.Context, client *clientv3.Client) (s sharedTokens, revision int64, err error) {
	got, err := client.Get(ctx, sharedTokensKey)
	if err != nil {
		return s, 0, fmt.Errorf("cannot read the keys of tokens in etcd: %w", err)
	}
	if len(got.Kvs) == 0 {
		return s, 0, nil
	}
	if err := json.Unmarshal(got.Kvs[0].Value, &s); err != nil {
		return s, 0, fmt.Errorf("cannot read the keys of tokens in etcd: %w", err)
	}
	return s, got.Kvs[0].ModRevision, nil
}

// takeTokens makes the keys in etcd those of the directory.
func takeTokens(ctx context.Context, client *clientv3.Client, dir statedir.Dir) (s sharedTokens, revision int64, err error) {
	s, revision, err = readSharedTokens(ctx, client)
	if err != nil || revision == 0 {
		return s, revision, err
	}
	here, err := dir.TokenKeys()
	switch {
	case err != nil:
		return s, 0, err
	case here.Current == s.Current && here.Next == s.Next && here.Old == s.Old:
		return s, revision, nil
	case !s.follow(here.Current):
		return s, 0, fmt.Errorf("cannot take over the keys of tokens in etcd: they do not follow %s, which signs here; copy pki/sa* of a control plane whose tokens count", here.Current)
	}
	said, err := s.said()
	if err != nil {
		return s, 0, err
	}
	plain, err := secretkeys.Open(dir, s.Sealed, said)
	if err != nil {
		return s, 0, fmt.Errorf("cannot read the keys of tokens in etcd: %w; copy pki/sa* of one that runs", err)
	}
	var files map[string][]byte
	if err := json.Unmarshal(plain, &files); err != nil {
		return s, 0, fmt.Errorf("cannot read the keys of tokens in etcd: %w", err)
	}
	logrus.Info("the keys of service accounts' tokens are those of the other control planes")
	return s, revision, dir.ImportTokenKeys(files, s.Replaced)
}

// shareTokens writes the keys of the directory to etcd, where the former ones have this revision.
func shareTokens(ctx context.Context, client *clientv3.Client, dir statedir.Dir, former sharedTokens, revision int64) error {
	files, err := dir.TokenKeyFiles()
	if err != nil {
		return err
	}
	keys, err := dir.TokenKeys()
	if err != nil {
		return err
	}
	s := sharedTokens{Current: keys.Current, Next: keys.Next, Old: keys.Old, Replaced: keys.Replaced, Retired: former.Retired}
	if former.Old != "" && keys.Old == "" {
		s.Retired = append(s.Retired, former.Old)
	}
	plain, err := json.Marshal(files)
	if err != nil {
		return fmt.Errorf("cannot encode the keys of tokens: %w", err)
	}
	said, err := s.said()
	if err != nil {
		return err
	}
	if s.Sealed, err = secretkeys.Seal(dir, plain, said); err != nil {
		return err
	}
	value, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("cannot encode the keys of tokens: %w", err)
	}
	unchanged := clientv3.Compare(clientv3.ModRevision(sharedTokensKey), "=", revision)
	done, err := client.Txn(ctx).If(unchanged).Then(clientv3.OpPut(sharedTokensKey, string(value))).Commit()
	if err == nil && !done.Succeeded {
		err = errors.New("another step is under way: call this again")
	}
	if err != nil {
		return fmt.Errorf("cannot write the keys of tokens to etcd: %w", err)
	}
	return nil
}

// startWithTokens takes the keys of tokens over before an API server starts. One that cannot goes on with its own: the steps of the
// rotation find that out.
func (c Config) startWithTokens(ctx context.Context, access statedir.Etcd) error {
	client, err := etcd.Dial(access)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(ctx, sharePatience)
	defer cancel()
	if _, _, err := takeTokens(ctx, client, c.StateDir); err != nil {
		logrus.WithError(err).Error("the keys of service accounts' tokens may be others than those of the other control planes")
	}
	return nil
}

// sharePatience bounds what is read from etcd before an API server starts.
const sharePatience = 15 * time.Second
