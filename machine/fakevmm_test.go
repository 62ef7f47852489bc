package machine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
)

// The fake VMM is a process of its own, as real ones are, so that it outlives a
// server, can be stopped, killed, and found again. It serves a socket that the
// starter made before it spawned it; each connection is one request of a line.
// Its back end stands in for vz, which no machine that runs this test has.

type fakeConfig struct {
	Name, UUID, Serial, Socket string
	Restored                   bool
}

type fakeVMM struct {
	config fakeConfig
	mu     sync.Mutex // guards all below
	state  hypervisor.VMState
	reason string
	feeds  map[chan hypervisor.Event]struct{}
	taps   map[net.Conn]struct{} // console connections
}

func fakeMain() {
	var f fakeVMM
	if err := json.Unmarshal([]byte(os.Getenv("MACHINE_TEST_CONFIG")), &f.config); err != nil {
		panic(err)
	}
	f.state, f.reason = hypervisor.StateCreated, "prelaunch"
	f.feeds = make(map[chan hypervisor.Event]struct{})
	f.taps = make(map[net.Conn]struct{})
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		panic(err)
	}
	fmt.Println("fake VMM of", f.config.Name)
	for {
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		go f.serve(c)
	}
}

func (f *fakeVMM) emit(e hypervisor.Event) {
	e.Time = time.Now()
	for ch := range f.feeds {
		ch <- e
	}
}

func (f *fakeVMM) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		return
	}
	verb, arg, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	out := json.NewEncoder(c)
	f.mu.Lock()
	defer f.mu.Unlock()
	set := func(s hypervisor.VMState, k hypervisor.EventKind, reason string) {
		f.state, f.reason = s, reason
		f.emit(hypervisor.Event{Kind: k, State: s, Reason: reason})
	}
	switch verb {
	case "identify":
		out.Encode(hypervisor.Identity{Name: f.config.Name, UUID: f.config.UUID, PID: os.Getpid()})
		return
	case "info":
		size := int64(1 << 20)
		out.Encode(hypervisor.VMInfo{State: f.state, Reason: f.reason, MemoryActualSize: &size})
		return
	case "events":
		ch := make(chan hypervisor.Event, 1000)
		f.feeds[ch] = struct{}{}
		out.Encode("ok")
		f.mu.Unlock()
		gone := make(chan struct{})
		go func() { defer close(gone); r.ReadByte() }()
		for open := true; open; {
			select {
			case e := <-ch:
				out.Encode(e)
			case <-gone:
				open = false
			}
		}
		f.mu.Lock()
		delete(f.feeds, ch)
		return
	case "console":
		f.taps[c] = struct{}{}
		out.Encode("ok")
		f.mu.Unlock()
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				break
			}
			f.mu.Lock()
			f.print("got " + line)
			f.mu.Unlock()
		}
		f.mu.Lock()
		delete(f.taps, c)
		return
	case "cont":
		set(hypervisor.StateRunning, hypervisor.EventRunning, "")
	case "stop":
		set(hypervisor.StatePaused, hypervisor.EventPaused, "")
	case "print":
		f.print(arg + "\n")
	case "powerdown", "quit":
		fmt.Println("fake VMM ends:", verb)
		set(hypervisor.StateShutdown, hypervisor.EventShutdown, map[string]string{"powerdown": "guest-shutdown", "quit": "host-quit"}[verb])
		os.Remove(f.config.Socket)
		out.Encode("ok")
		time.Sleep(10 * time.Millisecond) // for the event to be written
		os.Exit(0)
	}
	out.Encode("ok")
}

func (f *fakeVMM) print(s string) {
	file, err := os.OpenFile(f.config.Serial, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	io.WriteString(file, s)
	for c := range f.taps {
		io.WriteString(c, s)
	}
}

// fakeStarter is the back end of fake VMMs.
type fakeStarter struct {
	step func(string) // called within StartVM
}

func (fakeStarter) SocketName() string { return "fake.sock" }
func (fakeStarter) Capabilities(hypervisor.VMConfig) hypervisor.Capabilities {
	return (*fakeHandle)(nil).Capabilities()
}
func (fakeStarter) GetBinaryPath(*hypervisor.Paths, string) (string, error) {
	return os.Executable()
}
func (fakeStarter) GetVersion(*hypervisor.Paths) (string, error) { return "1", nil }

func (s fakeStarter) StartVM(ctx context.Context, _ *hypervisor.Paths, _, socket string, c hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
	return s.launch(ctx, fakeConfig{Name: c.Name, UUID: c.UUID, Serial: c.SerialLogPath, Socket: socket}, c.LogPath, "cont")
}

func (s fakeStarter) RestoreVM(ctx context.Context, _ *hypervisor.Paths, _, socket, snapshot string) (int, hypervisor.Hypervisor, error) {
	var c fakeConfig
	b, err := os.ReadFile(filepath.Join(snapshot, "state"))
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return 0, nil, err
	}
	c.Socket = socket
	return s.launch(ctx, c, filepath.Join(filepath.Dir(c.Serial), logFile), "stop")
}

func (s fakeStarter) launch(ctx context.Context, c fakeConfig, logPath, last string) (int, hypervisor.Hypervisor, error) {
	os.Remove(c.Socket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: c.Socket, Net: "unix"})
	if err != nil {
		return 0, nil, err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	fail := func(err error) (int, hypervisor.Hypervisor, error) {
		os.Remove(c.Socket)
		return 0, nil, fmt.Errorf("vz: start %s: %w", c.Name, err)
	}
	lf, err := l.File()
	if err != nil {
		return fail(err)
	}
	defer lf.Close()
	logFile, err := os.OpenFile(logPath, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fail(err)
	}
	defer logFile.Close()
	self, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	config, err := json.Marshal(c)
	if err != nil {
		return fail(err)
	}
	cmd := exec.Command(self)
	cmd.Env = []string{"GORACE=atexit_sleep_ms=0", "MACHINE_TEST_ROLE=vmm", "MACHINE_TEST_CONFIG=" + string(config)}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{lf}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); cmd.Wait() }()
	// For the tests, who look for every VMM that there ever was.
	pids, err := os.OpenFile(filepath.Join(filepath.Dir(c.Socket), "pids"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err == nil {
		fmt.Fprintln(pids, cmd.Process.Pid)
		pids.Close()
	}
	if s.step != nil {
		s.step("prelaunch")
	}
	hv, err := newFakeHandle(ctx, c.Socket)
	if err == nil {
		if err = hv.ask(ctx, last, nil); err != nil {
			hypervisor.CloseHandle(hv)
		}
	}
	if err != nil {
		cmd.Process.Kill()
		<-ended
		return fail(err)
	}
	return cmd.Process.Pid, hv, nil
}

// fakeHandle is a handle on a fake VMM: a connection for events, and another for
// each request.
type fakeHandle struct {
	socket string
	conn   net.Conn
	events chan hypervisor.Event
	done   chan struct{}
}

// fakeClient is for a VMM that is there, and answers at once unless it hangs.
func fakeClient(socket string) (hypervisor.Hypervisor, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	h, err := newFakeHandle(ctx, socket)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// newFakeHandle waits for a VMM that may still be on its way, until ctx ends.
func newFakeHandle(ctx context.Context, socket string) (*fakeHandle, error) {
	h := &fakeHandle{socket: socket, events: make(chan hypervisor.Event), done: make(chan struct{})}
	c, dec, err := h.dial(ctx, "events")
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Time{})
	h.conn = c
	go func() {
		defer close(h.events)
		for {
			var e hypervisor.Event
			if dec.Decode(&e) != nil {
				return
			}
			select {
			case h.events <- e:
			case <-h.done:
				return
			}
		}
	}()
	return h, nil
}

// dial sends a request and reads the "ok" that streams begin with.
func (h *fakeHandle) dial(ctx context.Context, verb string) (net.Conn, *json.Decoder, error) {
	c, err := h.send(ctx, verb)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	dec := json.NewDecoder(c)
	var ok string
	if err := dec.Decode(&ok); err != nil {
		c.Close()
		return nil, nil, fakeErr(ctx, verb, err)
	}
	return c, dec, nil
}

func fakeErr(ctx context.Context, verb string, err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil:
		err = context.DeadlineExceeded
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		err = hypervisor.ErrHypervisorNotRunning
	}
	return fmt.Errorf("vz: %s: %w", verb, err)
}

func (h *fakeHandle) send(ctx context.Context, line string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", h.socket)
	if err != nil {
		return nil, fakeErr(ctx, line, err)
	}
	if d, ok := ctx.Deadline(); ok {
		c.SetDeadline(d)
	}
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		c.Close()
		return nil, fakeErr(ctx, line, err)
	}
	return c, nil
}

func (h *fakeHandle) ask(ctx context.Context, line string, reply any) error {
	c, err := h.send(ctx, line)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var ok string
	if reply == nil {
		reply = &ok
	}
	if err := json.NewDecoder(c).Decode(reply); err != nil {
		return fakeErr(ctx, line, err)
	}
	return nil
}

func (h *fakeHandle) Close() error {
	close(h.done)
	return h.conn.Close()
}
func (h *fakeHandle) Events() <-chan hypervisor.Event    { return h.events }
func (h *fakeHandle) DeleteVM(ctx context.Context) error { return h.ask(ctx, "powerdown", nil) }
func (h *fakeHandle) Shutdown(ctx context.Context) error { return h.ask(ctx, "quit", nil) }
func (h *fakeHandle) Pause(ctx context.Context) error    { return h.ask(ctx, "stop", nil) }
func (h *fakeHandle) Resume(ctx context.Context) error   { return h.ask(ctx, "cont", nil) }
func (h *fakeHandle) GetVMInfo(ctx context.Context) (*hypervisor.VMInfo, error) {
	var i hypervisor.VMInfo
	return &i, h.ask(ctx, "info", &i)
}
func (h *fakeHandle) Identify(ctx context.Context) (i hypervisor.Identity, err error) {
	err = h.ask(ctx, "identify", &i)
	return i, err
}
func (h *fakeHandle) Snapshot(ctx context.Context, dir string) error {
	var i hypervisor.Identity
	if err := h.ask(ctx, "identify", &i); err != nil {
		return err
	}
	vm := filepath.Dir(filepath.Dir(h.socket))
	b, err := json.Marshal(fakeConfig{Name: i.Name, UUID: i.UUID, Serial: filepath.Join(vm, consoleFile), Restored: true})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "state"), b, 0o600)
}

// The fake guest takes any size and changes nothing.
func (h *fakeHandle) ResizeMemory(ctx context.Context, _ int64) error {
	return h.ask(ctx, "memory", nil)
}
func (h *fakeHandle) ResizeMemoryAndWait(ctx context.Context, bytes int64, _ time.Duration) error {
	return h.ResizeMemory(ctx, bytes)
}
func (h *fakeHandle) Capabilities() hypervisor.Capabilities {
	return hypervisor.Capabilities{SupportsPause: true, SupportsSnapshot: true, SupportsHotplugMemory: true}
}
func (h *fakeHandle) OpenConsole(ctx context.Context) (io.ReadWriteCloser, error) {
	c, _, err := h.dial(ctx, "console")
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Time{})
	return fakeConsole{c}, nil
}

// A fakeConsole can be hung up at any time: a fake VMM reads what was written
// before it looks for the end.
type fakeConsole struct{ net.Conn }

func (fakeConsole) Drained() bool { return true }

// registerFake makes fake VMMs the back end vz of this process.
func registerFake(step func(string)) {
	s := fakeStarter{step: step}
	hypervisor.RegisterStarter(hypervisor.TypeVZ, s)
	hypervisor.RegisterSocketName(hypervisor.TypeVZ, s.SocketName())
	hypervisor.RegisterClientFactory(hypervisor.TypeVZ, fakeClient)
}

// onlyFake is registerFake for a test, which sees to it that no VMM is left.
func onlyFake(t *testing.T, dir string) {
	t.Helper()
	registerFake(nil)
	t.Cleanup(func() {
		for _, p := range fakePIDs(t, dir) {
			if fp, err := process.Find(p); err == nil {
				fp.Signal(syscall.SIGKILL)
			}
		}
	})
}

// fakePIDs returns the pids of all VMMs that were ever started in the state
// directory.
func fakePIDs(t *testing.T, dir string) []int {
	t.Helper()
	var pids []int
	files, err := filepath.Glob(filepath.Join(dir, "vms", "*", runDir, "pids"))
	require.NoError(t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		for _, w := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(w)
			require.NoError(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

// livePIDs returns those that run.
func livePIDs(t *testing.T, dir string) []int {
	t.Helper()
	live := []int{}
	for _, pid := range fakePIDs(t, dir) {
		if _, err := process.Find(pid); err == nil {
			live = append(live, pid)
		}
	}
	return live
}

// serverMain is a server that starts a VM and is killed at a step of it.
func serverMain() {
	at := os.Getenv("MACHINE_TEST_KILL")
	die := func(step string) {
		if step == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	registerFake(die)
	h, err := Open(context.Background(), Options{
		StateDir:       os.Getenv("MACHINE_TEST_STATE"),
		DefaultBackend: hypervisor.TypeVZ,
		testHook:       func(_, step string) { die(step) },
	})
	if err != nil {
		panic(err)
	}
	v, ok := h.VM("web")
	if !ok {
		if v, err = h.Create("web", Owner{}); err != nil {
			panic(err)
		}
	}
	verb := v.Start
	if os.Getenv("MACHINE_TEST_VERB") == "restore" {
		verb = func(ctx context.Context) error { return v.Restore(ctx, "one") }
	}
	if err := verb(context.Background()); err != nil {
		panic(err)
	}
	die("done")
	panic("not killed at " + at)
}
