package chtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"vmfs/backends/cloudhypervisor/api"
)

// maxConns is how many connections the real one's server takes.
const maxConns = 10

// A server is the API of one vmm on a socket.
type server struct {
	vmm    *vmm
	faults []Fault
	lost   func() // removes the socket
	kill   func() // ends the VMM as SIGKILL does; it may return
	http   *http.Server
	gone   chan struct{} // closed when the VMM ends
	once   sync.Once

	loop  chan struct{}  // holds one while a call is carried out: there is one loop
	count map[string]int // of calls by name; whoever is in the loop has it

	mu    sync.Mutex // guards conns
	conns int
}

// newServer makes a VMM that is not served yet.
func newServer(c Config, events *os.File) *server {
	s := &server{
		vmm: &vmm{
			version: c.Version, guest: new(guest), ignore: c.IgnoresPowerButton,
			events: &eventFile{f: events, start: time.Now(), lost: c.LostEvents, cut: c.CutEvents},
		},
		faults: c.Faults, gone: make(chan struct{}), loop: make(chan struct{}, 1), count: make(map[string]int),
	}
	if s.vmm.version == "" {
		s.vmm.version = "v53.0"
	}
	s.vmm.guest.size = s.vmm.sizeOf
	s.http = &http.Server{
		Handler:     s,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ConnState: func(_ net.Conn, state http.ConnState) {
			s.mu.Lock()
			defer s.mu.Unlock()
			switch state {
			case http.StateNew:
				s.conns++
			case http.StateClosed, http.StateHijacked:
				s.conns--
			}
		},
	}
	return s
}

// serve serves l until the VMM ends.
func (s *server) serve(l *net.UnixListener) {
	s.vmm.events.write("vmm", "starting", nil)
	_ = s.http.Serve(&listener{l}) // it always ends with an error, which is that it was closed
	<-s.gone
}

// end ends the VMM.
func (s *server) end() {
	s.once.Do(func() { close(s.gone) })
	_ = s.http.Close() // who was not answered is not
	s.vmm.guest.end()
	s.vmm.guest.wg.Wait()
}

// A connKey is the context's key of a request's connection.
type connKey struct{}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	full := s.conns > maxConns
	s.mu.Unlock()
	if full {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{ "error": "Too many open connections" }`)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if name, ok := strings.CutPrefix(r.URL.Path, provoke); ok {
		s.provoked(w, name)
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/api/v1/")
	if !ok {
		name = r.URL.Path
	}
	select {
	case s.loop <- struct{}{}:
		defer func() { <-s.loop }()
	case <-r.Context().Done():
		return // it hung up before its turn, and the real one does not look at it any more
	}
	s.count[name]++
	fault := s.fault(name)
	if fault.Delay > 0 {
		select {
		case <-time.After(fault.Delay):
		case <-s.gone:
			return
		}
	}
	switch fault.Kind {
	case Hangs:
		<-s.gone
		return
	case DiesBefore:
		s.kill()
		panic(http.ErrAbortHandler) // no answer
	case Refused:
		write(w, fault.Status, []byte(fault.Body))
		return
	case LosesSocket:
		s.lost()
	}
	files := r.Context().Value(connKey{}).(*conn).take()
	a, end := s.vmm.call(r.Method, name, body, files)
	switch fault.Kind {
	case DiesAfter:
		s.kill()
		panic(http.ErrAbortHandler)
	case Failed:
		write(w, fault.Status, []byte(fault.Body))
		return
	}
	var b []byte
	if a.body != nil {
		if b, err = json.Marshal(a.body); err != nil {
			panic(err)
		}
	}
	write(w, a.status, b)
	if end {
		go s.end() // when the answer is out
	}
}

func write(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Server", "Cloud Hypervisor API")
	w.Header().Set("Connection", "keep-alive")
	if status != http.StatusNoContent {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
	_ = http.NewResponseController(w).Flush()
}

// fault returns what is to go wrong with a call, which has been counted.
func (s *server) fault(name string) Fault {
	for _, f := range s.faults {
		if f.Call == name && (f.Nth == 0 || f.Nth == s.count[name]) {
			return f
		}
	}
	return Fault{}
}

// provoke is the path of what the guest is to do. It is none of the API's, and does not wait
// for it.
const provoke = "/chtest/"

// An Action is what a guest does by itself.
type Action string

// The actions.
const (
	Panics    Action = "panics"     // with a pvpanic device
	PowersOff Action = "powers-off" // without having been asked
	Reboots   Action = "reboots"
)

// Provoke lets the guest of the VMM on socket do something.
func Provoke(ctx context.Context, socket string, a Action) error {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, "PUT", "http://localhost"+provoke+string(a), nil)
	if err != nil {
		return err
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("chtest: the guest does not do %s: status %d", a, resp.StatusCode)
	}
	return nil
}

func (s *server) provoked(w http.ResponseWriter, name string) {
	v, status := s.vmm, http.StatusNoContent
	v.mu.Lock()
	state := v.state
	v.mu.Unlock()
	switch {
	case state != api.StateRunning:
		status = http.StatusConflict
	case Action(name) == Panics:
		v.guest.print("Kernel panic - not syncing: provoked")
		v.events.write("guest", "panic", map[string]string{"event": "panic"})
	case Action(name) == PowersOff:
		v.powerOff()
	case Action(name) == Reboots:
		v.mu.Lock()
		v.reboot()
		v.mu.Unlock()
	default:
		status = http.StatusNotFound
	}
	w.WriteHeader(status)
}

// A listener accepts connections that take descriptors.
type listener struct{ *net.UnixListener }

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return &conn{UnixConn: c}, nil
}

// A conn is a connection that keeps the descriptors which come with what is read.
type conn struct {
	*net.UnixConn

	mu    sync.Mutex // guards files
	files []*os.File
}

func (c *conn) Read(b []byte) (int, error) {
	oob := make([]byte, syscall.CmsgSpace(253*4))
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if oobn > 0 {
		err = errors.Join(err, c.keep(oob[:oobn]))
	}
	n = max(n, 0)
	if n == 0 && err == nil && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

func (c *conn) keep(oob []byte) error {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range msgs {
		fds, err := syscall.ParseUnixRights(&msgs[i])
		if err != nil {
			return err
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			c.files = append(c.files, os.NewFile(uintptr(fd), "tap"))
		}
	}
	return nil
}

// take returns the files that came with the request that was read.
func (c *conn) take() []*os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	files := c.files
	c.files = nil
	return files
}
