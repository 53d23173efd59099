package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	dockerimage "github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"
	"github.com/prometheus/procfs"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

const megabyte = 1 << 20

// sample is what was measured at one time, by name.
type sample struct {
	phase  string
	after  time.Duration // since the first sample
	values map[string]float64
}

// samples are all samples of a run, each also a line of a CSV file: time, phase, name, value.
type samples struct {
	cluster *scratch.Cluster
	dir     string // of the cluster
	path    string
	file    *os.File
	start   time.Time
	all     []sample
}

func newSamples(c *scratch.Cluster, dir, path string) (*samples, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintln(file, "seconds,phase,name,value")
	return &samples{cluster: c, dir: dir, path: path, file: file, start: time.Now()}, err
}

func (s *samples) close() error { return s.file.Close() }

// sampleLimit bounds the reading of one sample.
const sampleLimit = 40 * time.Second

// take takes a sample and writes it.
func (s *samples) take(ctx context.Context, phase string) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, sampleLimit)
	defer cancel()
	taken := sample{phase: phase, after: time.Since(s.start), values: map[string]float64{}}
	for what, read := range map[string]func(context.Context, map[string]float64) error{
		"the processes": s.processes, "the goroutines": s.goroutines, "the Docker Engines": s.docker, "etcd": s.etcd, "the objects": s.objects, "the disk": s.disk,
	} {
		if err := read(ctx, taken.values); err != nil {
			return taken, fmt.Errorf("cannot sample %s: %w", what, err)
		}
	}
	s.all = append(s.all, taken)
	w := csv.NewWriter(s.file)
	for _, name := range slices.Sorted(maps.Keys(taken.values)) {
		err := w.Write([]string{strconv.Itoa(int(taken.after.Seconds())), phase, name, strconv.FormatFloat(taken.values[name], 'f', -1, 64)})
		if err != nil {
			return taken, err
		}
	}
	w.Flush()
	return taken, w.Error()
}

// processes reads memory, descriptors and threads by role, and what each network namespace with processes has. A role's processes are
// added up: there is a minion for each node.
func (s *samples) processes(ctx context.Context, values map[string]float64) error {
	all, err := s.cluster.Processes()
	if err != nil {
		return err
	}
	spaces := map[string]int{} // a process of each network namespace
	for _, p := range all {
		memory, fds, threads, err := look(p)
		if err != nil {
			continue // it ended since it was listed
		}
		values["processes "+p.Role]++
		for _, role := range []string{p.Role, "total"} {
			values["memory "+role] += memory / megabyte
			values["descriptors "+role] += fds
			values["threads "+role] += threads
		}
		if space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.PID)); err == nil {
			spaces[space] = p.PID
		}
	}
	for _, pid := range spaces {
		if err := kernel(ctx, pid, values); err != nil {
			return err
		}
	}
	return nil
}

// look returns a process's memory in bytes, and how many descriptors and threads it has.
func look(p scratch.Process) (memory, fds, threads float64, err error) {
	pss, err := p.Memory()
	if err != nil {
		return 0, 0, 0, err
	}
	process, err := procfs.NewProc(p.PID)
	if err != nil {
		return 0, 0, 0, err
	}
	open, err := process.FileDescriptorsLen()
	if err != nil {
		return 0, 0, 0, err
	}
	stat, err := process.Stat()
	return float64(pss), float64(open), float64(stat.NumThreads), err
}

// kernel counts what the network namespace of a process has.
func kernel(ctx context.Context, pid int, values map[string]float64) error {
	for name, read := range map[string]struct {
		command []string
		counts  func(line string) bool
	}{
		"iptables rules": {[]string{"iptables-save"}, func(line string) bool { return strings.HasPrefix(line, "-A ") }},
		"nft lines":      {[]string{"nft", "list", "ruleset"}, func(line string) bool { return strings.TrimSpace(line) != "" }},
		"links":          {[]string{"ip", "-o", "link"}, func(string) bool { return true }},
		"routes":         {[]string{"ip", "-o", "route", "show", "table", "all"}, func(string) bool { return true }},
	} {
		args := append([]string{"--net=/proc/" + strconv.Itoa(pid) + "/ns/net"}, read.command...)
		out, err := exec.CommandContext(ctx, "nsenter", args...).Output()
		if err != nil {
			return fmt.Errorf("%s: %w", strings.Join(read.command, " "), err)
		}
		for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
			if read.counts(lines.Text()) {
				values[name]++
			}
		}
	}
	return nil
}

// goroutines reads those of each job that the cluster's metrics server scrapes, all targets added up.
func (s *samples) goroutines(ctx context.Context, values map[string]float64) error {
	raw, err := s.cluster.Kube.Discovery().RESTClient().Get().
		RequestURI("/apis/monitoring.k8sm.io/v1/prometheus/api/v1/query?query=" + url.QueryEscape("sum by (job) (go_goroutines)")).DoRaw(ctx)
	if err != nil {
		return err
	}
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string `json:"metric"`
				Value  [2]any            `json:"value"`
			} `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return err
	}
	for _, r := range answer.Data.Result {
		text, _ := r.Value[1].(string)
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("the metrics server answers %s", raw)
		}
		values["goroutines "+r.Metric["job"]] = value
	}
	return nil
}

// docker counts the objects of all Engines.
func (s *samples) docker(ctx context.Context, values map[string]float64) error {
	for node, engine := range s.cluster.Engines {
		containers, err := engine.ContainerList(ctx, container.ListOptions{All: true})
		images, imagesErr := engine.ImageList(ctx, dockerimage.ListOptions{All: true})
		volumes, volumesErr := engine.VolumeList(ctx, volume.ListOptions{})
		networks, networksErr := engine.NetworkList(ctx, network.ListOptions{})
		if err := errors.Join(err, imagesErr, volumesErr, networksErr); err != nil {
			return fmt.Errorf("node %s: %w", node, err)
		}
		values["containers"] += float64(len(containers))
		values["images"] += float64(len(images))
		values["volumes"] += float64(len(volumes.Volumes))
		values["networks"] += float64(len(networks))
	}
	return nil
}

// etcd reads the size of etcd's database, and how much of it is in use.
func (s *samples) etcd(ctx context.Context, values map[string]float64) error {
	out, err := s.cluster.KM(ctx, "etcdctl", "endpoint", "status", "-w", "json").Output()
	if err != nil {
		return err
	}
	var members []struct {
		Status struct {
			Size  float64 `json:"dbSize"`
			InUse float64 `json:"dbSizeInUse"`
		}
	}
	if err := json.Unmarshal(out, &members); err != nil {
		return err
	}
	for _, m := range members {
		values["etcd file"] += m.Status.Size / megabyte
		values["etcd in use"] += m.Status.InUse / megabyte
	}
	return nil
}

// objects counts the pods and events, and the tasks in Mesos.
func (s *samples) objects(ctx context.Context, values map[string]float64) error {
	pods, err := s.cluster.Kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	events, err := s.cluster.Kube.CoreV1().Events("").List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	values["events"] = float64(len(events.Items))
	if events.RemainingItemCount != nil {
		values["events"] += float64(*events.RemainingItemCount)
	}
	state, err := s.cluster.State(ctx)
	if err != nil {
		return err
	}
	values["pods"], values["tasks"] = float64(len(pods.Items)), float64(len(state.Tasks()))
	return nil
}

// disk counts the files below each directory of the cluster's, and adds up their sizes, without the files of containers.
func (s *samples) disk(_ context.Context, values map[string]float64) error {
	return filepath.WalkDir(s.dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // removed meanwhile
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "overlay2" || entry.Name() == "rootfs"):
			return fs.SkipDir
		case !entry.Type().IsRegular():
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return nil // likewise
		}
		below, _ := filepath.Rel(s.dir, path)
		top, _, inside := strings.Cut(below, string(filepath.Separator))
		if !inside {
			return nil // one of the few files that each cluster has
		}
		values["files "+top]++
		values["disk "+top] += float64(info.Size()) / megabyte
		return nil
	})
}
