package ui

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	maxFollowed  = 64       // subscriptions of a socket
	maxCall      = 16 << 10 // bytes of what a page sends at once
	pingInterval = 20 * time.Second
	sendTimeout  = 30 * time.Second // for a page to take what it is sent
)

// call is what a page sends: open to follow a path, close to end that.
type call struct {
	// ID is the page's number of the subscription.
	ID int `json:"id"`
	// Op is "open" or "close".
	Op string `json:"op"`
	// Mode says what the page gets: "table", "objects" or "lines".
	Mode string `json:"mode"`
	// Path is the API server's, with the query; of a list, or of a log. Lines can also be those of a path of /api/mesos.
	Path string `json:"path"`
	// Annotations are those that the page gets of each row of a table.
	Annotations []string `json:"annotations"`
	// Fields are those that the page gets of each object beside its metadata, such as "status.conditions"; without any, it gets all.
	Fields []string `json:"fields"`
}

// frame is what a page is sent of one subscription.
type frame struct {
	ID int `json:"id"`
	// State is "live", "reconnecting" or "ended", if it has changed. Message says why.
	State   string `json:"state,omitempty"`
	Message string `json:"message,omitempty"`
	// Code is the status of an error that ends the subscription.
	Code int `json:"code,omitempty"`
	// Reset says that the rows or objects replace all earlier ones.
	Reset bool `json:"reset,omitempty"`
	// Columns are those of a table, sent with the first rows.
	Columns []column `json:"columns,omitempty"`
	Rows    []row    `json:"rows,omitempty"`
	Objects []any    `json:"objects,omitempty"`
	// Gone are the UIDs of what was deleted.
	Gone []string `json:"gone,omitempty"`
	// Lines is a piece of a log, which may end within a line.
	Lines string `json:"lines,omitempty"`
}

// socket is a page's WebSocket.
type socket struct {
	conn   *websocket.Conn
	who    *caller
	server *Server

	mu sync.Mutex // guards writing
}

// serveWatch serves the WebSocket of a page until one side closes it or the session ends.
func (s *Server) serveWatch(w http.ResponseWriter, r *http.Request, of *session) {
	disconnect := of.connect(maxSockets)
	if disconnect == nil {
		refuse(w, http.StatusTooManyRequests, errFull)
		return
	}
	defer disconnect()
	upgrader := websocket.Upgrader{
		CheckOrigin: sameOrigin, HandshakeTimeout: sendTimeout,
		Error: func(w http.ResponseWriter, _ *http.Request, code int, reason error) { refuse(w, code, reason) },
	}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // Error has answered
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(of.ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	k := &socket{conn: conn, who: of.who, server: s}
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	following.Go(func() { k.ping(ctx) })
	k.read(ctx, &following)
}

// read handles the page's calls until the connection ends.
func (k *socket) read(ctx context.Context, following *sync.WaitGroup) {
	alive := func(string) error { return k.conn.SetReadDeadline(time.Now().Add(3 * pingInterval)) }
	k.conn.SetReadLimit(maxCall)
	k.conn.SetPongHandler(alive)
	_ = alive("") // an error shows when reading
	ends := map[int]context.CancelFunc{}
	for {
		var c call
		if err := k.conn.ReadJSON(&c); err != nil {
			return
		}
		if end := ends[c.ID]; end != nil {
			end()
			delete(ends, c.ID)
		}
		if c.Op != "open" {
			continue
		}
		path, err := k.server.followed(ctx, c)
		if err == nil && len(ends) >= maxFollowed {
			err = errors.New("this page follows too much")
		}
		if err != nil {
			k.send(frame{ID: c.ID, State: "ended", Code: http.StatusForbidden, Message: err.Error()})
			continue
		}
		own, end := context.WithCancel(ctx)
		ends[c.ID] = end
		following.Go(func() {
			defer end()
			(&follower{socket: k, call: c, path: path}).run(own)
		})
	}
}

// followed checks what a page wants to follow.
func (s *Server) followed(ctx context.Context, c call) (*url.URL, error) {
	path, err := url.Parse(c.Path)
	if err != nil || path.Host != "" || path.Scheme != "" || !strings.HasPrefix(path.Path, "/api") {
		return nil, errPath
	}
	if path.RawPath = ""; strings.HasPrefix(path.Path, mesosPrefix) && c.Mode == "lines" {
		return path, nil
	}
	query := path.Query()
	for _, name := range []string{"watch", "follow"} { // this server says whether
		if c.Mode != "lines" {
			query.Del(name)
		}
	}
	path.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, path.String(), nil)
	if err != nil {
		return nil, errPath
	}
	return path, s.allowed(request)
}

// ping keeps the connection open, and lets both sides find out when it is not: a page's script sees no pings, so it gets an empty frame.
func (k *socket) ping(ctx context.Context) {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if k.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(sendTimeout)) != nil {
				k.conn.Close()
				return
			}
			k.send(frame{})
		}
	}
}

// send sends a frame. A page that does not take it in time is disconnected.
func (k *socket) send(f frame) {
	data, err := json.Marshal(f)
	if err != nil {
		data, _ = json.Marshal(frame{ID: f.ID, State: "ended", Code: http.StatusInternalServerError, Message: err.Error()})
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = k.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	if k.conn.WriteMessage(websocket.TextMessage, data) != nil {
		k.conn.Close()
	}
}
