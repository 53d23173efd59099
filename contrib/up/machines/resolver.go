package machines

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// resolvConf says which DNS servers programs ask (https://man7.org/linux/man-pages/man5/resolv.conf.5.html).
const resolvConf = "/etc/resolv.conf"

// loopbackResolvers returns the DNS servers in a resolv.conf that listen on loopback, such as systemd-resolved.
func loopbackResolvers(path string) (servers []netip.AddrPort, err error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot find this machine's DNS servers: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if address, err := netip.ParseAddr(words[1]); err == nil && address.IsLoopback() {
			servers = append(servers, netip.AddrPortFrom(address, 53))
		}
	}
	return servers, lines.Err()
}

// ForwardResolvers lets programs on the machine, which read this machine's resolv.conf, reach its DNS servers on loopback. It
// returns when they do; wait returns some time after ctx has ended.
func (m *Machine) ForwardResolvers(ctx context.Context) (wait func(), err error) {
	var waits sync.WaitGroup
	servers, err := loopbackResolvers(resolvConf)
	for _, server := range servers {
		if err = m.forwardBoth(ctx, &waits, server.String()); err != nil {
			break
		}
	}
	return waits.Wait, err
}

// forwardBoth forwards TCP and UDP.
func (m *Machine) forwardBoth(ctx context.Context, waits *sync.WaitGroup, address string) error {
	tcp, err := m.Forward(ctx, address, address)
	if err != nil {
		return err
	}
	waits.Go(tcp)
	var packets net.PacketConn
	err = m.Enter(func() (err error) {
		packets, err = net.ListenPacket("udp", address)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot listen on %s of node %s: %w", address, m.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { packets.Close() })
	waits.Go(func() {
		defer stop()
		forwardQuestions(packets, address)
	})
	return nil
}

// questionLimit bounds a DNS server's answer. Clients retry earlier.
const questionLimit = 5 * time.Second

// maxQuestions bounds the queries that wait for an answer. Further ones wait in the socket, which drops what it cannot hold.
const maxQuestions = 256

// forwardQuestions forwards each DNS query from there to a server here, until there is closed.
func forwardQuestions(there net.PacketConn, here string) {
	var questions sync.WaitGroup
	defer questions.Wait()
	places := make(chan struct{}, maxQuestions)
	for {
		places <- struct{}{}
		question := make([]byte, 64<<10)
		n, from, err := there.ReadFrom(question)
		if err != nil {
			return
		}
		questions.Go(func() {
			defer func() { <-places }()
			server, err := net.Dial("udp", here)
			if err != nil {
				return // as if nobody listened
			}
			defer server.Close()
			_ = server.SetDeadline(time.Now().Add(questionLimit))
			if _, err := server.Write(question[:n]); err != nil {
				return
			}
			answer := make([]byte, 64<<10)
			if n, err := server.Read(answer); err == nil {
				_, _ = there.WriteTo(answer[:n], from) // who has gone asks again
			}
		})
	}
}
