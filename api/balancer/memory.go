package balancer

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/sirupsen/logrus"
)

// memory is the content of the file.
type memory struct {
	Listed []string `json:"servers"`
	Former []string `json:"former,omitempty"`
}

// known returns what is worth remembering. The caller holds mu.
func (b *Balancer) known() (known memory) {
	for _, m := range b.members {
		switch m.standing {
		case listed:
			known.Listed = append(known.Listed, m.address)
		case former:
			known.Former = append(known.Former, m.address)
		}
	}
	slices.Sort(known.Listed)
	slices.Sort(known.Former)
	return known
}

// Remember adds the servers that an earlier balancer has remembered in the file, and remembers there what changes from now on.
func (b *Balancer) Remember(file string) {
	old := recall(file)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, address := range old.Listed {
		b.add(address, listed)
	}
	for _, address := range old.Former {
		b.add(address, former)
	}
	b.file = file
	b.keep()
	b.poke()
}

// recall reads a file. One that cannot be read is worth a warning only: the seeds are known.
func recall(file string) (known memory) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return known
	}
	if err == nil {
		err = json.Unmarshal(data, &known)
	}
	if err != nil {
		logrus.WithField("file", file).WithError(err).Warn("cannot read which API servers the cluster has")
		return memory{}
	}
	valid := func(list []string, most int) []string {
		list = slices.DeleteFunc(list, func(address string) bool { _, _, err := net.SplitHostPort(address); return err != nil })
		return list[:min(len(list), most)]
	}
	return memory{Listed: valid(known.Listed, mostListed), Former: valid(known.Former, mostFormer)}
}

// keep replaces the file, if there is one, when its content changes. A full disk is worth a warning only. The caller holds mu.
func (b *Balancer) keep() {
	known := b.known()
	if b.file == "" || len(known.Listed) == 0 {
		return
	}
	data, err := json.MarshalIndent(known, "", "  ")
	if err == nil {
		if old, _ := os.ReadFile(b.file); string(old) == string(data) {
			return
		}
		err = replace(b.file, data)
	}
	if err != nil {
		logrus.WithError(err).Warn("cannot remember which API servers the cluster has")
	}
}

// replace writes a file at once and whole. Several processes may do so with the same file.
func replace(path string, data []byte) error {
	fresh, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = fresh.Write(data)
	if err = errors.Join(err, fresh.Close()); err == nil {
		err = os.Rename(fresh.Name(), path)
	}
	if err != nil {
		_ = os.Remove(fresh.Name())
	}
	return err
}
