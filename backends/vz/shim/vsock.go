package shim

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"vmfs/internal/unixsock"
	"vmfs/internal/wait"
	"vmfs/vsock"
)

const (
	// requestWait is how long a client may take for its first line.
	requestWait = 10 * time.Second
	// maxStreams is how many streams there can be, both ways together.
	maxStreams = 4096
	// maxPorts is how many ports of the host the guest can be listened to at.
	maxPorts = 1024
	// firstPort is the host's port of the first stream that a client opens.
	firstPort = 1 << 30
)

// A vsockServer serves the hybrid vsock protocol: a client says "CONNECT PORT", and is the
// stream after the answer "OK PORT". A guest that connects to the port P of the host
// gets who serves the socket <socket>_P.
//
// The framework wants to be told beforehand at which ports guests are listened to: those
// of which there is a socket. That is looked for whenever the directory changes, and when a
// client says "LISTEN PORT": the answer is "OK PORT" once the framework knows, so that a
// guest that connects then is not refused.
type vsockServer struct {
	shim *Shim
	l    *unixsock.Listener
	// looks has those who wait for another look at the directory.
	looks chan chan error
	next  atomic.Uint32
	slots chan struct{} // has a token for each stream

	ports map[int]Listener // of run's goroutine

	mu    sync.Mutex // guards the fields below
	over  bool
	conns map[io.Closer]struct{}
}

func newVsock(s *Shim, l *unixsock.Listener) *vsockServer {
	return &vsockServer{
		shim: s, l: l, looks: make(chan chan error), slots: make(chan struct{}, maxStreams),
		ports: make(map[int]Listener), conns: make(map[io.Closer]struct{}),
	}
}

// close ends every stream and the listening.
func (v *vsockServer) close() {
	_ = v.l.Close() // what was ours is gone, or somebody else's
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = true
	for c := range v.conns {
		_ = c.Close()
	}
}

// hold keeps a connection to be closed at the end, and tells whether that was before.
func (v *vsockServer) hold(c io.Closer) (release func(), ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.over {
		return nil, false
	}
	v.conns[c] = struct{}{}
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.conns, c)
	}, true
}

// run serves until the shim ends.
func (v *vsockServer) run() {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(v.accept)
	changes, stop := v.watch()
	defer stop()
	defer v.close()
	v.look()
	for {
		select {
		case <-changes:
			v.look()
		case done := <-v.looks:
			done <- v.look()
		case <-v.shim.ctx.Done():
			return
		}
	}
}

// watch tells of changes of the sockets beside the server's own. Where the system cannot
// it says so once: then only who says LISTEN is listened for.
func (v *vsockServer) watch() (<-chan struct{}, func()) {
	changes := make(chan struct{}, 1)
	w, err := fsnotify.NewWatcher()
	if err == nil {
		if err = w.Add(filepath.Dir(v.l.Path())); err != nil {
			_ = w.Close()
		}
	}
	if err != nil {
		v.shim.Log.Warn("a socket for a port of the guest is noticed only by LISTEN", "err", err)
		return changes, func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range w.Events {
			if strings.HasPrefix(e.Name, v.l.Path()+"_") && !e.Has(fsnotify.Write) && !e.Has(fsnotify.Chmod) {
				select {
				case changes <- struct{}{}:
				default:
				}
			}
		}
	}()
	go func() {
		for range w.Errors { // a change that is missed is found with the next, or by LISTEN
		}
	}()
	return changes, func() {
		_ = w.Close()
		<-done
	}
}

// look has the framework listen at the ports of which there is a socket, and at no other.
func (v *vsockServer) look() error {
	paths, err := filepath.Glob(escape(v.l.Path()) + "_*")
	if err != nil {
		return err
	}
	there := make(map[int]bool)
	for _, path := range paths {
		port, err := strconv.Atoi(strings.TrimPrefix(path, v.l.Path()+"_"))
		if err == nil && vsock.CheckPort(port) == nil && vsock.ListenPath(v.l.Path(), port) == path {
			there[port] = true
		}
	}
	for port, l := range v.ports {
		if !there[port] {
			_ = l.Close()
			delete(v.ports, port)
		}
	}
	var errs []error
	for port := range there {
		if v.ports[port] != nil {
			continue
		}
		if len(v.ports) >= maxPorts {
			errs = append(errs, fmt.Errorf("there are %d ports already", maxPorts))
			break
		}
		l, err := v.shim.machine.Listen(uint32(port))
		if err != nil {
			errs = append(errs, fmt.Errorf("port %d: %w", port, err))
			continue
		}
		release, ok := v.hold(l)
		if !ok {
			_ = l.Close()
			break
		}
		v.ports[port] = l
		go func() { // ends with the listener
			defer release()
			v.toHost(port, l)
		}()
	}
	if err := errors.Join(errs...); err != nil {
		v.shim.Log.Warn("the guest is not listened to", "err", err)
		return err
	}
	return nil
}

// escape makes a path a pattern that is that path alone.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// toHost brings the guest's connections to a port to who serves its socket.
func (v *vsockServer) toHost(port int, l Listener) {
	path := vsock.ListenPath(v.l.Path(), port)
	for {
		guest, err := l.Accept()
		if err != nil {
			return
		}
		go func() { // ends with the stream
			host, err := unixsock.Dial(v.shim.ctx, path)
			if err != nil {
				_ = guest.Close() // nobody is there
				return
			}
			v.join(host, guest)
		}()
	}
}

// accept takes clients until the listener is closed.
func (v *vsockServer) accept() {
	for {
		conn, err := v.l.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			v.shim.Log.Warn("cannot accept a vsock client", "err", err)
			if wait.For(v.shim.ctx, acceptPause) != nil {
				return
			}
			continue
		}
		go v.serve(conn) // ends with the connection, which close ends
	}
}

// serve serves one client.
func (v *vsockServer) serve(conn *net.UnixConn) {
	release, ok := v.hold(conn)
	if !ok {
		_ = conn.Close()
		return
	}
	defer release()
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(requestWait))
	verb, port, err := readRequest(conn)
	if err != nil {
		return // it is cut off, as by every server of this protocol
	}
	_ = conn.SetReadDeadline(time.Time{})
	switch verb {
	case "LISTEN":
		done := make(chan error, 1)
		select {
		case v.looks <- done:
		case <-v.shim.ctx.Done():
			return
		}
		if <-done == nil {
			_, _ = fmt.Fprintf(conn, "OK %d\n", port)
		}
	case "CONNECT":
		guest, err := v.shim.machine.Connect(uint32(port))
		if err != nil {
			return
		}
		number := firstPort + v.next.Add(1)%firstPort
		if _, err := fmt.Fprintf(conn, "OK %d\n", number); err != nil {
			_ = guest.Close()
			return
		}
		v.join(conn, guest)
	}
}

// maxRequest is how long a request is at most, its line's end included.
const maxRequest = len("CONNECT 4294967294\n")

// readRequest takes one line and nothing after it.
func readRequest(conn *net.UnixConn) (verb string, port int, err error) {
	var line []byte
	one := make([]byte, 1)
	for len(line) <= maxRequest {
		if _, err := io.ReadFull(conn, one); err != nil {
			return "", 0, err
		}
		if one[0] == '\n' {
			word, number, _ := strings.Cut(string(line), " ")
			if port, err = strconv.Atoi(number); err == nil {
				err = vsock.CheckPort(port)
			}
			if err == nil && word != "CONNECT" && word != "LISTEN" {
				err = os.ErrInvalid
			}
			return word, port, err
		}
		line = append(line, one[0])
	}
	return "", 0, os.ErrInvalid
}

// join carries both ways until both have ended. Each way ends by itself: what one side has
// said last arrives, and the other can go on.
func (v *vsockServer) join(host *net.UnixConn, guest Conn) {
	defer host.Close()
	defer guest.Close()
	select {
	case v.slots <- struct{}{}:
		defer func() { <-v.slots }()
	default:
		v.shim.Log.Warn("a vsock stream is refused: there are too many", "most", maxStreams)
		return
	}
	release, ok := v.hold(guest)
	if !ok {
		return
	}
	defer release()
	releaseHost, ok := v.hold(host)
	if !ok {
		return
	}
	defer releaseHost()
	var ways sync.WaitGroup
	ways.Go(func() { carry(guest, host) })
	ways.Go(func() { carry(host, guest) })
	ways.Wait()
}

// carry copies from one end to the other. The end of the input becomes the end of the
// output; anything else ends both.
func carry(to, from Conn) {
	_, err := io.Copy(to, from)
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		_ = to.Close()
		_ = from.Close()
	}
}

// agent dials the guest as every client does.
func (v *vsockServer) agent() *vsock.Hybrid { return &vsock.Hybrid{Socket: v.l.Path()} }
