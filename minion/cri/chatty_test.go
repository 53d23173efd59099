package cri

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// chatty writes bursts of 10 MB, in numbered lines of 1000 bytes, each when the test has made a file for it, and says when it has.
const chatty = `
text=$(head -c 900 /dev/zero | tr '\0' x)
burst=0
while :; do
	while [ ! -e /host/$burst ]; do sleep 0.02; done
	awk -v first=$((burst*10000)) -v text=$text 'BEGIN { for (i = first; i < first+10000; i++) printf "%099d %s\n", i, text }'
	echo > /host/$burst.done
	burst=$((burst+1))
done`

// numbersOf returns the numbers of a log's lines.
func numbersOf(t *testing.T, path string) (numbers []int) {
	t.Helper()
	file, err := os.Open(path)
	must(t, err)
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		_, line, _ := strings.Cut(lines.Text(), " stdout F ")
		var number int
		if _, err := fmt.Sscanf(line, "%d ", &number); err != nil {
			t.Fatalf("log line %.150q: %v", lines.Text(), err)
		}
		numbers = append(numbers, number)
	}
	return numbers
}

func TestChattyContainerLosesNothingAndLeavesNoMoreThanTheBound(t *testing.T) {
	n := newNode(t)
	config, dir := n.podConfig("chatty"), filepath.Join(n.root, "bursts")
	must(t, os.MkdirAll(dir, 0o755))
	id := n.runContainer(t, n.runPod(t, config), config, shell("main", chatty), mountOf(dir))
	path := n.status(t, id).LogPath
	burst := func(number int) {
		t.Helper()
		name := filepath.Join(dir, fmt.Sprint(number))
		must(t, os.WriteFile(name, nil, 0o644))
		eventually(t, "the container has written", func() bool { return exists(name + ".done") })
	}
	for i := range 20 {
		burst(i)
		copied(t, path, i+1)
		if size := onDisk(t, id); size > usualLogSize+1<<20 {
			t.Fatalf("after %d MB the Engine keeps %d bytes of the log; want no more than %d", 10*(i+1), size, usualLogSize)
		}
	}
	for i, number := range numbersOf(t, path) {
		if number != i {
			t.Fatalf("line %d of the log is %d", i, number)
		}
	}
	stats, err := n.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: id})
	must(t, err)
	if counted := stats.Stats.WritableLayer.UsedBytes.Value; counted < uint64(onDisk(t, id)) {
		t.Errorf("the container is said to take %d bytes of the Engine's disk, of which its log is %d", counted, onDisk(t, id))
	}

	n.stop() // now it writes more than the Engine keeps while nobody reads
	for i := range 8 {
		burst(20 + i)
	}
	n.start(t)
	var numbers []int
	eventually(t, "the end of the log is copied", func() bool {
		numbers = numbersOf(t, path)
		return numbers[len(numbers)-1] == 279_999
	})
	first := 280_000 - (len(numbers) - 200_000)
	for i, number := range numbers[200_000:] {
		if number != first+i {
			t.Fatalf("line %d after the gap is %d; want %d", i, number, first+i)
		}
	}
	if kept := len(numbers) - 200_000; kept < usualLogSize/2/1100 {
		t.Errorf("%d lines that were written meanwhile are there; want at least half of the bound", kept)
	}
}

// onDisk is how many bytes the Engine keeps of a container's log.
func onDisk(t *testing.T, id string) (size int64) {
	t.Helper()
	for _, file := range engineLogs(t, id) {
		info, err := os.Stat(file)
		must(t, err)
		size += info.Size()
	}
	return size
}

// copied waits until the log has this many bursts.
func copied(t *testing.T, path string, bursts int) {
	t.Helper()
	const line = 1001 + len(logTime) + len(" stdout F ")
	eventually(t, "the log is copied", func() bool {
		info, err := os.Stat(path)
		return err == nil && info.Size() >= int64(bursts*10_000*line)
	})
}
