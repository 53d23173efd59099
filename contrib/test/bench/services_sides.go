package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/k8sm/k8sm/contrib/test/scratch"
)

// dialLimit is how long one attempt to reach a service may take.
const dialLimit = time.Second

// nodeProxy is k8sm's node: its kube-proxy, and the minion that looks after that.
type nodeProxy struct{ minion, proxy *os.Process }

// newNodeProxy finds the node's processes. not is the process id of another kube-proxy.
func newNodeProxy(ctx context.Context, c *scratch.Cluster, not int) (n nodeProxy, err error) {
	err = scratch.Until(ctx, time.Minute, func(context.Context) error {
		there, err := c.Processes()
		if err != nil {
			return err
		}
		for _, p := range there {
			switch {
			case p.Role == "minion":
				n.minion, err = os.FindProcess(p.PID)
			case p.Role == "proxy" && p.PID != not:
				n.proxy, err = os.FindProcess(p.PID)
			}
			if err != nil {
				return err
			}
		}
		if n.minion == nil || n.proxy == nil {
			return errors.New("the node has no minion or no kube-proxy")
		}
		return nil
	})
	return n, err
}

func (n nodeProxy) dial(ctx context.Context, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialLimit}
	return dialer.DialContext(ctx, "tcp", address)
}

// pause stops the minion first: it kills a kube-proxy that does not answer.
func (n nodeProxy) pause() error {
	return errors.Join(n.minion.Signal(syscall.SIGSTOP), n.proxy.Signal(syscall.SIGSTOP))
}

func (n nodeProxy) resume() error {
	return errors.Join(n.proxy.Signal(syscall.SIGCONT), n.minion.Signal(syscall.SIGCONT))
}

// stockProxy is a kube-proxy with its default settings for a mode, in a network namespace of its own that has nothing else. From there
// it reaches the cluster's API server through the machine.
type stockProxy struct {
	space space
	link  netlink.Link // the machine's end
	cmd   *exec.Cmd
	log   *os.File
}

type stockConfig struct {
	km, dir, mode string
	cluster       *scratch.Cluster
}

// The addresses of the link between the machine and the stock kube-proxy's namespace.
const stockGateway, stockAddress = "169.254.75.1", "169.254.75.2"

func startStockProxy(ctx context.Context, cfg stockConfig) (s *stockProxy, err error) {
	nodes, err := cfg.cluster.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	if len(nodes.Items) != 1 {
		return nil, fmt.Errorf("the cluster has %d nodes, not one", len(nodes.Items))
	}
	s = &stockProxy{}
	if s.log, err = os.Create(filepath.Join(cfg.dir, "stock-proxy.log")); err != nil {
		return nil, err
	}
	// The machine's conntrack settings are not this kube-proxy's.
	s.cmd = exec.Command(cfg.km, "proxy", "--kubeconfig="+cfg.cluster.Kubeconfig(), "--proxy-mode="+cfg.mode, "--hostname-override="+nodes.Items[0].Name,
		"--conntrack-max-per-core=0")
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // keep the terminal's Ctrl-C from it
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := s.makeSpace(); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	if err := s.space.do(s.cmd.Start); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start the stock kube-proxy: %w", err), s.stop())
	}
	return s, nil
}

// makeSpace makes the network namespace and the link to it.
func (s *stockProxy) makeSpace() (err error) {
	if s.space.home, err = netns.Get(); err != nil {
		return err
	}
	if s.space.handle, err = netns.New(); err != nil {
		return fmt.Errorf("cannot make a network namespace, which needs root: %w", err)
	}
	if err := netns.Set(s.space.home); err != nil {
		return err
	}
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "k8sm-bench"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(s.space.handle)}
	if err := netlink.LinkAdd(cable); err != nil {
		return fmt.Errorf("cannot link a network namespace: %w", err)
	}
	s.link = cable
	if err := setUp("k8sm-bench", stockGateway); err != nil {
		return err
	}
	return s.space.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := errors.Join(netlink.LinkSetUp(lo), setUp("eth0", stockAddress)); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(stockGateway)})
	})
}

func setUp(name, address string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	at, err := netlink.ParseAddr(address + "/30")
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(link, at), netlink.LinkSetUp(link))
}

func (s *stockProxy) pid() int { return s.cmd.Process.Pid }

// dial makes the socket in the namespace, where it stays.
func (s *stockProxy) dial(ctx context.Context, address string) (conn net.Conn, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = s.space.do(func() (err error) {
		dialer := net.Dialer{Timeout: dialLimit}
		conn, err = dialer.DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

func (s *stockProxy) pause() error { return s.cmd.Process.Signal(syscall.SIGSTOP) }

func (s *stockProxy) resume() error { return s.cmd.Process.Signal(syscall.SIGCONT) }

// stop kills it. Its rules go with the namespace.
func (s *stockProxy) stop() error {
	var problems []error
	if s.cmd.Process != nil {
		problems = append(problems, s.cmd.Process.Kill())
		_ = s.cmd.Wait() // it was killed
	}
	if s.link != nil {
		problems = append(problems, netlink.LinkDel(s.link))
	}
	for _, handle := range []netns.NsHandle{s.space.handle, s.space.home} {
		if handle > 0 {
			problems = append(problems, handle.Close())
		}
	}
	return errors.Join(append(problems, s.log.Close())...)
}
