package scratch

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/prometheus/procfs"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Usable waits until the default namespace accepts pods, which need the service account that the controller manager creates.
func (c *Cluster) Usable(ctx context.Context) error {
	return Until(ctx, 30*time.Second, func(ctx context.Context) error {
		_, err := c.Kube.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// SandboxImage is the image that the pods' sandboxes run. It is there once a pod ran.
func (c *Cluster) SandboxImage(ctx context.Context) (string, error) {
	images, err := c.Docker.ImageList(ctx, image.ListOptions{Filters: filters.NewArgs(filters.Arg("reference", "k8sm.io/pause"))})
	if err != nil {
		return "", err
	}
	if len(images) == 0 || len(images[0].RepoTags) == 0 {
		return "", errors.New("no pod has run yet: there is no sandbox image")
	}
	return images[0].RepoTags[0], nil
}

// Process is a process of a cluster. Role is its km command, or the name of another program.
type Process struct {
	PID  int
	Role string
}

// Memory is the process's proportional set size in bytes: pages that several processes share count in part
// (https://docs.kernel.org/filesystems/proc.html).
func (p Process) Memory() (uint64, error) {
	process, err := procfs.NewProc(p.PID)
	if err != nil {
		return 0, err
	}
	maps, err := process.ProcSMapsRollup()
	if err != nil {
		return 0, err
	}
	if maps.Pss == 0 {
		return 0, fmt.Errorf("the kernel does not say what memory process %d has", p.PID)
	}
	return maps.Pss, nil
}

// Processes returns the running processes of the cluster: `km up`, its descendants, and processes with the cluster's directory as
// working directory or in their command line. It leaves out containers.
func (c *Cluster) Processes() ([]Process, error) {
	there, err := procfs.AllProcs()
	if err != nil {
		return nil, err
	}
	all := map[int]process{}
	for _, t := range there {
		if p, err := readProcess(t); err == nil {
			all[t.PID] = p
		}
	}
	var ours []Process
	for pid, p := range all {
		if role := p.role(); role != "" && c.owns(all, p) {
			ours = append(ours, Process{PID: pid, Role: role})
		}
	}
	return ours, nil
}

// process is what the kernel tells about one.
type process struct {
	parent  int
	command []string // never empty
	dir     string   // that it works in
}

func readProcess(there procfs.Proc) (p process, err error) {
	stat, err := there.Stat()
	if err != nil {
		return p, err
	}
	p.parent = stat.PPID
	p.command, err = there.CmdLine()
	if len(p.command) == 0 {
		p.command = []string{""} // a thread of the kernel's, or one that has ended
	}
	p.dir, _ = there.Cwd() // one that is ending has none
	return p, err
}

// role is empty for programs that are none of the cluster's own, such as what runs in containers.
func (p process) role() string {
	switch name := filepath.Base(p.command[0]); name {
	case "km":
		for i := 1; i < len(p.command); i++ {
			if p.command[i] == "--state-dir" {
				i++
			} else if !strings.HasPrefix(p.command[i], "-") {
				return p.command[i]
			}
		}
		return ""
	case "dockerd", "containerd", "docker-proxy":
		return name
	default:
		return ""
	}
}

// owns reports whether the process or one that it descends from works in the cluster's directory, or carries it in its command line.
func (c *Cluster) owns(all map[int]process, p process) bool {
	for range 32 {
		if strings.Contains(strings.Join(p.command, " "), c.cfg.Dir) || strings.HasPrefix(p.dir, c.cfg.Dir+"/") {
			return true
		}
		parent, ok := all[p.parent]
		if !ok {
			return false
		}
		p = parent
	}
	return false
}

// Until repeats try until it succeeds. After the time limit it returns the last error of try.
func Until(ctx context.Context, limit time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // one that the end of the time has interrupted says less than the one before
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", limit, last)
		}
	}
}
