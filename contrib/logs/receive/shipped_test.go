package receive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/k8sm/k8sm/contrib/logs/store"
	"github.com/k8sm/k8sm/minion/logs"
)

// playMinion ships logs below dir to the stores whose addresses are in files there.
func playMinion(dir string) error {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, host string) (net.Conn, error) {
		name, _, _ := strings.Cut(host, ":")
		address, err := os.ReadFile(filepath.Join(dir, name+".address"))
		if err != nil {
			return nil, err
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", string(address))
	}}}
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	stores := logs.Stores{
		Config:  logs.Config{Logs: filepath.Join(dir, "pod-logs"), Dir: filepath.Join(dir, "logs"), MinFreeBytes: 1, Log: quiet},
		Connect: func(name string) logs.Store { return logs.NewClient("http://"+name, client) }, Registry: prometheus.NewRegistry(),
	}
	present, err := filepath.Glob(filepath.Join(dir, "*.address"))
	if err != nil {
		return err
	}
	for i := range present {
		present[i] = strings.TrimSuffix(filepath.Base(present[i]), ".address")
	}
	names := make(chan []string, 1)
	names <- present
	return stores.Run(context.Background(), names)
}

// aNode is a machine with containers that write, a kubelet that rotates and deletes, a minion and stores.
type aNode struct {
	*testing.T
	dir         string
	stores      map[string]func() // kill them
	minion      *exec.Cmd
	killedTimes int
}

func (n *aNode) must(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

// newNode starts a minion and the stores with these names.
func newNode(t *testing.T, stores ...string) *aNode {
	t.Helper()
	n := &aNode{T: t, dir: t.TempDir(), stores: map[string]func(){}}
	n.must(os.Mkdir(filepath.Join(n.dir, "pod-logs"), 0o755))
	for _, name := range stores {
		n.startStore(name)
	}
	n.startMinion()
	return n
}

func (n *aNode) startStore(name string) {
	n.Helper()
	c, kill := startServer(n.T, filepath.Join(n.dir, name))
	n.stores[name] = kill
	address, _, _ := strings.Cut(strings.TrimPrefix(c.url, "http://"), "/")
	next := filepath.Join(n.dir, "address.next")
	n.must(os.WriteFile(next, []byte(address), 0o600))
	n.must(os.Rename(next, filepath.Join(n.dir, name+".address")))
}

// end kills all.
func (n *aNode) end() {
	n.killMinion()
	for _, kill := range n.stores {
		kill()
	}
}

func (n *aNode) startMinion() {
	n.Helper()
	n.minion = exec.Command(os.Args[0])
	n.minion.Env = append(os.Environ(), "K8SM_TEST_MINION="+n.dir)
	n.minion.Stderr = os.Stderr
	n.must(n.minion.Start())
}

func (n *aNode) killMinion() {
	_ = n.minion.Process.Kill()
	_ = n.minion.Wait()
}

// killAgainAndAgain kills the minion or the store one at random times until ctx ends.
func (n *aNode) killAgainAndAgain(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(200*time.Millisecond + rand.N(time.Second)):
		}
		n.killedTimes++
		if rand.IntN(2) == 0 {
			n.killMinion()
			n.startMinion()
		} else {
			n.stores["one"]()
			n.startStore("one")
		}
	}
}

// write writes numbered lines to the log of a pod's container until ctx ends, rotates it, deletes what was rotated, and at last the pod. It
// returns how many lines it has written. What the minion has not linked is not deleted: it cannot know of that while it does not run.
func (n *aNode) write(ctx context.Context, pod string) (lines int) {
	dir := filepath.Join(n.dir, "pod-logs", "shop_"+pod+"_uid-"+pod, "app")
	path := filepath.Join(dir, "0.log")
	n.must(os.MkdirAll(dir, 0o755))
	for rotations := 0; ctx.Err() == nil; rotations++ {
		file, err := os.Create(path)
		n.must(err)
		for range 40 {
			var text strings.Builder
			for range 20 {
				fmt.Fprintf(&text, "%s stdout F %d\n", time.Now().UTC().Format(time.RFC3339Nano), lines)
				lines++
			}
			_, err := file.WriteString(text.String())
			n.must(err)
			time.Sleep(10 * time.Millisecond) // the rate is what is tested, not an order
		}
		n.must(file.Close())
		n.must(os.Rename(path, fmt.Sprintf("%s.20260102-%06d", path, rotations)))
		n.deleteLinked(path + ".*")
	}
	for n.deleteLinked(path+".*") > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	n.must(os.RemoveAll(filepath.Dir(dir)))
	return lines
}

// deleteLinked deletes the files that have a name in the spool, too, and returns how many are left.
func (n *aNode) deleteLinked(pattern string) (left int) {
	files, err := filepath.Glob(pattern)
	n.must(err)
	for _, path := range files {
		var st unix.Stat_t
		if n.must(unix.Lstat(path, &st)); st.Nlink < 2 {
			left++
			continue
		}
		n.must(os.Remove(path))
	}
	return left
}

// shipped waits until the minion has removed all that it kept.
func (n *aNode) shipped() {
	n.Helper()
	ctx, cancel := context.WithTimeout(n.Context(), 90*time.Second)
	defer cancel()
	for {
		links := filepath.Join(n.dir, "logs", "*", "links")
		spools, err := filepath.Glob(links)
		left, leftErr := filepath.Glob(filepath.Join(links, "*"))
		if err = errors.Join(err, leftErr); err == nil && len(left) == 0 && len(spools) == len(n.stores) {
			return
		}
		select {
		case <-ctx.Done():
			n.Fatalf("the minion keeps logs of the pods %v, error %v", left, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// read returns what the store has of a pod, in the order in which it was written.
func (n *aNode) read(entries *store.Store, pod string) (messages []string) {
	n.Helper()
	type line struct {
		number, offset int
		message        string
	}
	var all []line
	err := entries.Query(n.Context(), store.Pods, map[string]string{FieldPod: pod}, "*", func(b store.Block) error {
		numbers, offsets, texts := b.Column(FieldNumber), b.Column(FieldOffset), b.Column(store.Message)
		for i := range b.Len() {
			number, err := strconv.Atoi(numbers[i])
			offset, offsetErr := strconv.Atoi(offsets[i])
			if err := errors.Join(err, offsetErr); err != nil {
				return err
			}
			all = append(all, line{number, offset, strings.Clone(texts[i])})
		}
		return nil
	})
	n.must(err)
	slices.SortFunc(all, func(a, b line) int { return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.offset, b.offset)) })
	for _, l := range all {
		messages = append(messages, l.message)
	}
	return messages
}

// writeAll has pods write for a while, and returns how many lines each of them wrote, when all are gone.
func (n *aNode) writeAll(pods []string, meanwhile func(ctx context.Context)) []int {
	n.Helper()
	writing, stopWriting := context.WithTimeout(n.Context(), 5*time.Second)
	defer stopWriting()
	killing, stopKilling := context.WithTimeout(n.Context(), 6*time.Second)
	defer stopKilling()
	wrote := make([]int, len(pods))
	var group sync.WaitGroup
	for i, pod := range pods {
		group.Go(func() { wrote[i] = n.write(writing, pod) })
	}
	meanwhile(killing)
	group.Wait()
	n.shipped()
	return wrote
}

// hasOnce checks that a store has each line of the pods once, and in order. The store must not run.
func (n *aNode) hasOnce(name string, pods []string, wrote []int) {
	n.Helper()
	entries, err := store.Open(store.Config{Dir: filepath.Join(n.dir, name), Retention: 7 * 24 * time.Hour, Memory: 64 << 20})
	n.must(err)
	defer entries.Close()
	for i, pod := range pods {
		messages := n.read(entries, pod)
		if len(messages) != wrote[i] {
			n.Errorf("pod %s wrote %d lines, and the store %s has %d", pod, wrote[i], name, len(messages))
		}
		for k, m := range messages {
			if m != strconv.Itoa(k) {
				n.Errorf("line %d of pod %s in the store %s is %q", k, pod, name, m)
				break
			}
		}
	}
}

// The minion and the store themselves, each killed at random under load: each line is there once, and in order.
func TestShippedLinesAreThereOnceAndInOrderWhateverIsKilled(t *testing.T) {
	n := newNode(t, "one")
	defer n.end()
	pods := []string{"one", "two", "three"}
	wrote := n.writeAll(pods, n.killAgainAndAgain)
	n.end()
	n.hasOnce("one", pods, wrote)
	t.Logf("%d kills, %v lines", n.killedTimes, wrote)
}

// With two control planes, a store that was killed and comes back gets what it lacks, and so each of them has all.
func TestEachOfTwoStoresHasAllLinesOnceAlthoughOneWasAway(t *testing.T) {
	n := newNode(t, "one", "two")
	defer n.end()
	pods := []string{"a", "b"}
	wrote := n.writeAll(pods, func(ctx context.Context) {
		for range 2 {
			n.stores["two"]()
			select {
			case <-ctx.Done():
			case <-time.After(time.Second + rand.N(time.Second)): // away while pods write
			}
			n.startStore("two")
		}
	})
	n.end()
	for _, name := range []string{"one", "two"} {
		n.hasOnce(name, pods, wrote)
	}
	t.Logf("%v lines", wrote)
}
