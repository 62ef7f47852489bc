package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"vmfs/backends/vz/shimapi"
	"vmfs/internal/wait"
)

const (
	// maxClients is how many connections to the control socket there can be.
	maxClients = 64
	// maxRequests is how many requests of one client can be under way.
	maxRequests = 64
	// acceptPause is how long it takes until a connection is tried to be accepted again.
	acceptPause = 100 * time.Millisecond
)

// A controlServer is the control socket.
type controlServer struct {
	shim *Shim
	l    *net.UnixListener
	path string
	ids  os.FileInfo // of the socket's file, as it was

	mu      sync.Mutex // guards the fields below
	closed  bool
	clients map[*client]struct{}
}

func newControl(s *Shim, l *net.UnixListener) *controlServer {
	c := &controlServer{shim: s, l: l, path: l.Addr().String(), clients: make(map[*client]struct{})}
	c.ids, _ = os.Lstat(c.path) // without one it is not removed
	return c
}

// run takes connections until close.
func (c *controlServer) run() {
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		conn, err := c.l.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			c.shim.Log.Warn("cannot accept a connection to the control socket", "err", err)
			if wait.For(c.shim.ctx, acceptPause) != nil {
				return
			}
			continue
		}
		cl := &client{shim: c.shim, conn: conn, slots: make(chan struct{}, maxRequests), running: make(map[uint64]context.CancelFunc)}
		c.mu.Lock()
		full := c.closed || len(c.clients) >= maxClients
		if !full {
			c.clients[cl] = struct{}{}
		}
		c.mu.Unlock()
		if full {
			cl.hangUp(shimapi.CodeBusy, "there are %d clients already", maxClients)
			_ = conn.Close()
			continue
		}
		clients.Go(func() {
			cl.serve()
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.clients, cl)
		})
	}
}

// close takes no more connections, and ends those that there are once they have the last of
// what there is to say. The socket is removed.
func (c *controlServer) close() {
	c.mu.Lock()
	c.closed = true
	for cl := range c.clients {
		_ = cl.conn.SetReadDeadline(time.Unix(1, 0))
		_ = cl.conn.SetWriteDeadline(time.Now().Add(farewell))
	}
	c.mu.Unlock()
	if now, err := os.Lstat(c.path); err == nil && c.ids != nil && os.SameFile(now, c.ids) {
		_ = os.Remove(c.path) // who finds it there finds nobody
	}
	_ = c.l.Close() // nothing is lost with it
}

// A client is one connection.
type client struct {
	shim  *Shim
	conn  *net.UnixConn
	slots chan struct{} // has a token for each request under way

	writing sync.Mutex // held while a line is written

	mu      sync.Mutex // guards the fields below
	last    uint64     // the greatest id
	greeted bool
	events  bool
	running map[uint64]context.CancelFunc
}

// serve reads requests until the client hangs up or says what is none.
func (c *client) serve() {
	var requests sync.WaitGroup
	defer func() { _ = c.conn.Close() }() // all that was to be said was
	defer requests.Wait()
	r := shimapi.NewReader(c.conn)
	for {
		var req shimapi.Request
		err := shimapi.ReadLine(r, &req)
		switch {
		case errors.Is(err, shimapi.ErrProtocol):
			c.hangUp(shimapi.CodeProtocol, "%v", err)
			c.linger()
			return
		case err != nil:
			return
		}
		if code, why := c.admit(req); code != "" {
			c.hangUp(code, "%s", why)
			c.linger()
			return
		}
		if req.Method == shimapi.MethodCancel {
			c.send(shimapi.Message{ID: req.ID, Result: empty, Error: answer(c.cancel(req))})
			continue
		}
		select {
		case c.slots <- struct{}{}:
		default:
			c.send(shimapi.Message{ID: req.ID, Error: answer(coded(shimapi.CodeBusy, "%d requests of this client are under way already", maxRequests))})
			continue
		}
		// Not with the client: what it has asked for is gone through with.
		ctx, cancel := context.WithCancel(c.shim.ctx)
		c.mu.Lock()
		c.running[req.ID] = cancel
		c.mu.Unlock()
		requests.Go(func() {
			defer func() { <-c.slots }()
			defer cancel()
			c.handle(ctx, req)
		})
	}
}

// linger reads what the client still sends, so that it gets to read what it was told
// last, for a moment.
func (c *client) linger() {
	_ = c.conn.CloseWrite()
	_ = c.conn.SetReadDeadline(time.Now().Add(lastWords))
	_, _ = io.Copy(io.Discard, io.LimitReader(c.conn, 1<<20))
}

// admit checks what holds for every request.
func (c *client) admit(req shimapi.Request) (shimapi.Code, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case req.ID <= c.last:
		return shimapi.CodeProtocol, fmt.Sprintf("request %d after request %d: ids rise", req.ID, c.last)
	case !c.greeted && req.Method != shimapi.MethodHello:
		return shimapi.CodeProtocol, "the first request is not hello"
	case c.greeted && req.Method == shimapi.MethodHello:
		return shimapi.CodeProtocol, "another hello"
	}
	c.last = req.ID
	if !c.greeted {
		var h shimapi.Hello
		if err := shimapi.Strict(req.Params, &h); err != nil {
			return shimapi.CodeProtocol, "hello: " + err.Error()
		}
		if h.Max < shimapi.MinVersion || h.Min > shimapi.Version {
			return shimapi.CodeVersion, fmt.Sprintf("this vz-shim speaks the versions %d to %d, and the server %d to %d: stop the VM with the server that started it, or kill it, and start it again",
				shimapi.MinVersion, shimapi.Version, h.Min, h.Max)
		}
		c.greeted = true
	}
	return "", ""
}

var empty = []byte("{}")

// send writes a message. A client that does not read makes it wait.
func (c *client) send(m shimapi.Message) {
	if m.Error != nil {
		m.Result = nil
	}
	line, err := shimapi.Line(m)
	if err != nil {
		line, _ = shimapi.Line(shimapi.Message{ID: m.ID, Error: &shimapi.Error{Code: shimapi.CodeFailed, Text: "the answer is too long"}})
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if _, err := c.conn.Write(line); err != nil {
		_ = c.conn.Close() // a line that was cut off is the end
	}
}

// hangUp says why the conversation ends.
func (c *client) hangUp(code shimapi.Code, format string, args ...any) {
	_ = c.conn.SetWriteDeadline(time.Now().Add(farewell))
	c.send(shimapi.Message{Error: &shimapi.Error{Code: code, Text: fmt.Sprintf(format, args...)}})
}

// cancel gives up a request. One that is not under way is no error: it may be answered.
func (c *client) cancel(req shimapi.Request) error {
	var p shimapi.Cancel
	if err := shimapi.Strict(req.Params, &p); err != nil {
		return coded(shimapi.CodeUnknown, "%s: %v", req.Method, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if cancel := c.running[p.ID]; cancel != nil {
		cancel()
	}
	return nil
}
