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

// playMinion ships logs below dir to the store whose address is in a file there.
func playMinion(dir string) error {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		address, err := os.ReadFile(filepath.Join(dir, "address"))
		if err != nil {
			return nil, err
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", string(address))
	}}}
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	return logs.Run(context.Background(), logs.Config{
		Logs: filepath.Join(dir, "pod-logs"), Dir: filepath.Join(dir, "logs"), Store: logs.NewClient("http://store", client), MinFreeBytes: 1,
		Metrics: logs.NewMetrics(prometheus.NewRegistry()), Log: quiet,
	})
}

// aNode is a machine with containers that write, a kubelet that rotates and deletes, a minion and a store.
type aNode struct {
	*testing.T
	dir         string
	store       func() // kills it
	minion      *exec.Cmd
	killedTimes int
}

func (n *aNode) must(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

func (n *aNode) startStore() {
	n.Helper()
	c, kill := startServer(n.T, filepath.Join(n.dir, "store"))
	n.store = kill
	address, _, _ := strings.Cut(strings.TrimPrefix(c.url, "http://"), "/")
	n.must(os.WriteFile(filepath.Join(n.dir, "address.next"), []byte(address), 0o600))
	n.must(os.Rename(filepath.Join(n.dir, "address.next"), filepath.Join(n.dir, "address")))
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

// killAgainAndAgain kills the minion or the store at random times until ctx ends.
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
			n.store()
			n.startStore()
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
		left, err := os.ReadDir(filepath.Join(n.dir, "logs", "links"))
		if err == nil && len(left) == 0 {
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

// The minion and the store themselves, each killed at random under load: each line is there once, and in order.
func TestShippedLinesAreThereOnceAndInOrderWhateverIsKilled(t *testing.T) {
	n := &aNode{T: t, dir: t.TempDir()}
	n.must(os.Mkdir(filepath.Join(n.dir, "pod-logs"), 0o755))
	n.startStore()
	n.startMinion()
	defer func() { n.killMinion(); n.store() }()
	writing, stopWriting := context.WithTimeout(t.Context(), 5*time.Second)
	defer stopWriting()
	killing, stopKilling := context.WithTimeout(t.Context(), 6*time.Second)
	defer stopKilling()
	pods := []string{"one", "two", "three"}
	wrote := make([]int, len(pods))
	var group sync.WaitGroup
	for i, pod := range pods {
		group.Go(func() { wrote[i] = n.write(writing, pod) })
	}
	n.killAgainAndAgain(killing)
	group.Wait()
	n.shipped()
	n.store()
	entries, err := store.Open(store.Config{Dir: filepath.Join(n.dir, "store"), Retention: 7 * 24 * time.Hour, Memory: 64 << 20})
	n.must(err)
	defer entries.Close()
	for i, pod := range pods {
		messages := n.read(entries, pod)
		if len(messages) != wrote[i] {
			t.Errorf("pod %s wrote %d lines, and the store has %d", pod, wrote[i], len(messages))
		}
		for k, m := range messages {
			if m != strconv.Itoa(k) {
				t.Errorf("pod %s: line %d is %q", pod, k, m)
				break
			}
		}
	}
	t.Logf("%d kills, %v lines", n.killedTimes, wrote)
}
