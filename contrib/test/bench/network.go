package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/k8sm/k8sm/api"
)

const (
	// streamTime is the duration of a round of a stream or of calls.
	streamTime = time.Second
	// streamChunk is the size of a write, callSize that of a request and of an answer.
	streamChunk = 128 << 10
	callSize    = 64
)

// podNetwork measures throughput and latency of one TCP connection between two pods through minion/network: on one node, and on two
// nodes by routes and by VXLAN. The peer is two network namespaces on a plain bridge. Machines are namespaces of one kernel, so that
// links cost nothing and the figures show processor time. Traffic between nodes passes such a bridge too, and the pods' devices.
func (b *bench) podNetwork(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "k8sm-bench-network-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a scratch directory
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the lab's namespace with it
		done <- b.inLab(ctx, dir)
	}()
	return <-done
}

func (b *bench) inLab(ctx context.Context, dir string) (err error) {
	l, err := newLab(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	bare, err := l.bareBridge()
	if err != nil {
		return err
	}
	ways := []*measuredWay{{name: "same_node"}, {name: "routes"}, {name: "vxlan"}}
	if ways[0].pair, err = l.pods("s", api.NetworkRoutes, 1); err != nil {
		return err
	}
	if ways[1].pair, err = l.pods("r", api.NetworkRoutes, 2); err != nil {
		return err
	}
	if ways[2].pair, err = l.pods("v", api.NetworkVXLAN, 2); err != nil {
		return err
	}
	for range b.rounds {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		peer, err := bare.measure()
		if err != nil {
			return err
		}
		for _, w := range ways {
			if err := w.round(peer); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	for _, w := range ways {
		w.print()
	}
	return nil
}

// measuredWay is one path between two pods, with its figures.
type measuredWay struct {
	name             string
	pair             pair
	stream, p50, p99 figure
}

// round takes one round, beside the peer's.
func (w *measuredWay) round(peer passed) error {
	ours, err := w.pair.measure()
	if err != nil {
		return err
	}
	for f, values := range map[*figure][2]float64{
		&w.stream: {ours.megabits, peer.megabits}, &w.p50: {ours.p50, peer.p50}, &w.p99: {ours.p99, peer.p99},
	} {
		f.rounds, f.peer = append(f.rounds, values[0]), append(f.peer, values[1])
	}
	return nil
}

func (w *measuredWay) print() {
	w.stream.name, w.stream.unit = "network_stream_"+w.name, "Mb/s"
	w.p50.name, w.p50.unit = "network_call_p50_"+w.name, "us"
	w.p99.name, w.p99.unit = "network_call_p99_"+w.name, "us"
	for _, f := range []*figure{&w.stream, &w.p50, &w.p99} {
		f.print(os.Stdout)
	}
}

// pair are two namespaces, and the address of the second.
type pair struct {
	client, server space
	address        netip.Addr
}

// passed is the result of a round: a stream's rate, and the times of calls in microseconds.
type passed struct{ megabits, p50, p99 float64 }

func (p pair) measure() (result passed, err error) {
	if result.megabits, err = p.stream(); err != nil {
		return result, fmt.Errorf("cannot measure a stream: %w", err)
	}
	times, err := p.calls()
	if err != nil {
		return result, fmt.Errorf("cannot measure calls: %w", err)
	}
	slices.Sort(times)
	result.p50 = float64(times[len(times)/2].Nanoseconds()) / 1000
	result.p99 = float64(times[len(times)*99/100].Nanoseconds()) / 1000
	return result, nil
}

// connect makes a connection from the client's namespace to the server's.
func (p pair) connect() (client, server net.Conn, err error) {
	var listener net.Listener
	if err = p.server.do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(p.address.String(), "0"))
		return err
	}); err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	if err = p.client.do(func() (err error) {
		client, err = net.DialTimeout("tcp", net.JoinHostPort(p.address.String(), port), 5*time.Second)
		return err
	}); err != nil {
		return nil, nil, err
	}
	if server, err = listener.Accept(); err != nil {
		return nil, nil, errors.Join(err, client.Close())
	}
	return client, server, nil
}

// stream sends for the round's time and returns what arrived, in Mb/s.
func (p pair) stream() (float64, error) {
	client, server, err := p.connect()
	if err != nil {
		return 0, err
	}
	defer client.Close()
	defer server.Close()
	began := time.Now()
	if err := client.SetWriteDeadline(began.Add(streamTime)); err != nil {
		return 0, err
	}
	go func() {
		defer client.Close()
		for chunk := make([]byte, streamChunk); ; {
			if _, err := client.Write(chunk); err != nil {
				return // the time is over
			}
		}
	}()
	received, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{server}, make([]byte, streamChunk))
	if err != nil {
		return 0, err
	}
	return float64(received) * 8 / 1e6 / time.Since(began).Seconds(), nil
}

// calls makes calls for the round's time, and returns the time of each.
func (p pair) calls() ([]time.Duration, error) {
	client, server, err := p.connect()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	go func() {
		defer server.Close()
		for message := make([]byte, callSize); ; {
			if _, err := io.ReadFull(server, message); err != nil {
				return // the client has had enough
			}
			if _, err := server.Write(message); err != nil {
				return
			}
		}
	}()
	var times []time.Duration
	message := make([]byte, callSize)
	for began := time.Now(); time.Since(began) < streamTime; {
		asked := time.Now()
		binary.BigEndian.PutUint64(message, uint64(len(times)))
		if _, err := client.Write(message); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(client, message); err != nil {
			return nil, err
		}
		if got := binary.BigEndian.Uint64(message); got != uint64(len(times)) {
			return nil, fmt.Errorf("call %d was answered as %d", len(times), got)
		}
		times = append(times, time.Since(asked))
	}
	return times, nil
}
