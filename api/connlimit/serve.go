package connlimit

import (
	"context"
	"crypto/tls"
	stdlog "log"
	"net"
	"net/http"
	"time"

	"github.com/sirupsen/logrus"
)

// Limits are what the clients of an HTTPS server may take of it.
type Limits struct {
	Connections int           // in all
	PerClient   int           // of one IP address
	Header      time.Duration // to send the header of a request
	Request     time.Duration // to send a request
	Answer      time.Duration // to take the answer
}

// Serve serves HTTPS on the listener, which it closes, until ctx ends. Then it ends all connections and returns nil.
func (l Limits) Serve(ctx context.Context, listener net.Listener, secured *tls.Config, h http.Handler) error {
	tlsErrors := logrus.StandardLogger().WriterLevel(logrus.DebugLevel) // failed handshakes are the clients' problem
	defer tlsErrors.Close()
	server := &http.Server{
		Handler: Requests(h), ReadHeaderTimeout: l.Header, ReadTimeout: l.Request, WriteTimeout: l.Answer,
		IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: stdlog.New(tlsErrors, "", 0), BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = server.Close() // clients can ask again
	})
	err := server.Serve(tls.NewListener(Listener(listener, l.Connections, l.PerClient), secured))
	if stop() { // ctx has not ended
		return err
	}
	<-stopped
	return nil
}
