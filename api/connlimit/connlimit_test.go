package connlimit

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"

	"github.com/k8sm/k8sm/contrib/test/pipenet"
)

// closedAt tells whether the server has closed the connection.
func closedAt(conn net.Conn) bool {
	closed := make(chan struct{})
	go func() {
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			close(closed)
		}
	}()
	synctest.Wait()
	select {
	case <-closed:
		return true
	default:
		return false
	}
}

func TestClientHasItsShareAndAllHaveTheirs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := pipenet.New()
		limited := Listener(all, 3, 2)
		accepted := make(chan net.Conn, 10)
		go func() {
			for {
				conn, err := limited.Accept()
				if err != nil {
					return
				}
				accepted <- conn
			}
		}()
		dial := func(from string) net.Conn {
			conn, err := all.Dial(from)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		dial("192.0.2.1")
		dial("::ffff:192.0.2.1") // the same client
		if third := dial("192.0.2.1"); !closedAt(third) {
			t.Error("a client has more than its share")
		}
		if other := dial("192.0.2.2"); closedAt(other) {
			t.Error("another client has none")
		}
		if len(accepted) != 3 {
			t.Errorf("%d connections are open, want 3", len(accepted))
		}
		waiting := make(chan net.Conn)
		go func() { waiting <- dial("192.0.2.3") }()
		synctest.Wait()
		if len(accepted) != 3 || len(waiting) != 0 {
			t.Errorf("%d connections are open beside one that waits, want 3", len(accepted))
		}
		first := <-accepted
		if err := errors.Join(first.Close(), ignore(first.Close())); err != nil { // a second Close gives nothing back
			t.Error(err)
		}
		<-waiting
		synctest.Wait()
		if len(accepted) != 3 {
			t.Errorf("%d further connections are open, want 3", len(accepted))
		}
		limited.Close()
		for len(accepted) > 0 {
			(<-accepted).Close()
		}
	})
}

func ignore(error) error { return nil }
