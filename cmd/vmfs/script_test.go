package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience is how long a script waits for something that must come. It is long
// for the sake of a loaded machine; what comes is taken at once.
const patience = time.Minute

func TestMain(m *testing.M) {
	// A process with the race detector otherwise waits for a second at its end.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	// The scripts' vmfs is this test binary, and so has the race detector.
	testscript.Main(m, map[string]func(){"vmfs": main, "vmfs-attack": attackMain})
}

// TestScripts runs the stories in testdata/script. Beside testscript's own they
// have the commands below; $ADDR is a Unix socket's address for a server.
func TestScripts(t *testing.T) { runScripts(t, "testdata/script") }

// runScripts runs the stories of a directory, in an environment that also has those variables.
func runScripts(t *testing.T, dir string, also ...string) {
	root, err := os.MkdirTemp("/tmp", "vmfs") // short: Unix socket paths are limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		WorkdirRoot:         root,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			ps := &procs{byName: make(map[string]*proc)}
			env.Values[procsKey{}] = ps
			env.Defer(func() { endShims(env.WorkDir) }) // after the servers
			env.Defer(ps.end)
			env.Setenv("ADDR", "unix!"+filepath.Join(env.WorkDir, "s"))
			env.Setenv("VMFS_ADDR", env.Getenv("ADDR"))
			env.Setenv("XDG_RUNTIME_DIR", filepath.Join(env.WorkDir, "run"))
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "xstate"))
			env.Setenv("NOTIFY_SOCKET", "")
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Vars = append(env.Vars, also...)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"start":     cmdStart,
			"expect":    cmdExpect,
			"send":      cmdSend,
			"eof":       cmdEOF,
			"signal":    cmdSignal,
			"finish":    cmdFinish,
			"status":    cmdStatus,
			"notify":    cmdNotify,
			"logged":    cmdLogged,
			"blocked":   cmdBlocked,
			"listening": cmdListening,
			"notified":  cmdNotified,
		},
	})
}

type procsKey struct{}

// procs are the processes that a script started and that may still run.
type procs struct {
	byName map[string]*proc
	notify *net.UnixConn
}

// end kills what is left at the end of a script.
func (ps *procs) end() {
	for _, p := range ps.byName {
		p.cmd.Process.Kill()
		p.stdin.Close()
		<-p.done
		p.relay.close()
	}
	if ps.notify != nil {
		ps.notify.Close()
	}
}

// A proc is a process in the background whose output is looked at as it comes.
type proc struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	done  chan struct{} // closed when the process has ended and all output is here
	relay *relay        // what it reaches $VMFS_ADDR through; nil for none

	mu    sync.Mutex // guards out and seen
	out   bytes.Buffer
	seen  int           // how much of out expect has passed
	grown chan struct{} // closed and replaced when out grows
}

// take adds what r has to p.out.
func (p *proc) take(r io.Reader) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		p.mu.Lock()
		p.out.Write(buf[:n])
		close(p.grown)
		p.grown = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// expect waits until p has printed what re matches, after what it matched
// before.
func (p *proc) expect(re *regexp.Regexp) error {
	deadline := time.After(patience)
	ended := false
	for {
		p.mu.Lock()
		rest := p.out.Bytes()[p.seen:]
		if m := re.FindIndex(rest); m != nil {
			p.seen += m[1]
			p.mu.Unlock()
			return nil
		}
		text, grown := string(rest), p.grown
		p.mu.Unlock()
		if ended {
			return fmt.Errorf("it ended (%v) after printing\n%s", p.cmd.ProcessState, text)
		}
		select {
		case <-grown:
		case <-p.done:
			ended = true
		case <-deadline:
			return fmt.Errorf("not within %v; it printed\n%s", patience, text)
		}
	}
}

func named(ts *testscript.TestScript, args []string) *proc {
	if len(args) == 0 {
		ts.Fatalf("want the name of a started process")
	}
	p := ts.Value(procsKey{}).(*procs).byName[args[0]]
	if p == nil {
		ts.Fatalf("no process %q was started", args[0])
	}
	return p
}

func plain(ts *testscript.TestScript, neg bool, args []string, min int, usage string) {
	if neg || len(args) < min {
		ts.Fatalf("usage: %s", usage)
	}
}

// start NAME PROGRAM [ARGS…] starts a program in the background. What it prints
// on standard output and standard error, in that order of coming, is for expect.
func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "start NAME PROGRAM [ARGS…]")
	ps := ts.Value(procsKey{}).(*procs)
	if old := ps.byName[args[0]]; old != nil {
		select {
		case <-old.done:
		default:
			ts.Fatalf("%s runs already", args[0])
		}
	}
	path := args[1]
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if f := filepath.Join(dir, path); !filepath.IsAbs(path) {
			if _, err := os.Stat(f); err == nil {
				path = f
				break
			}
		}
	}
	p := &proc{cmd: exec.Command(path, args[2:]...), done: make(chan struct{}), grown: make(chan struct{})}
	p.cmd.Dir = ts.MkAbs(".")
	for _, k := range []string{"PATH", "HOME", "ADDR", "VMFS_ADDR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "NOTIFY_SOCKET", "TMPDIR", "GORACE", vzInTests} {
		p.cmd.Env = append(p.cmd.Env, k+"="+ts.Getenv(k))
	}
	var err error
	if addr := ts.Getenv("VMFS_ADDR"); addr != "" && args[1] == "vmfs" && args[2] != "serve" {
		path := ts.MkAbs("relay-" + args[0])
		p.relay, err = newRelay(path, addr)
		ts.Check(err)
		p.cmd.Env = append(p.cmd.Env, "VMFS_ADDR=unix!"+path)
	}
	p.stdin, err = p.cmd.StdinPipe()
	ts.Check(err)
	stdout, err := p.cmd.StdoutPipe()
	ts.Check(err)
	stderr, err := p.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(p.cmd.Start())
	ts.Logf("[%s is process %d]", args[0], p.cmd.Process.Pid)
	ps.byName[args[0]] = p
	go func() {
		var wg sync.WaitGroup
		wg.Go(func() { p.take(stdout) })
		wg.Go(func() { p.take(stderr) })
		wg.Wait()
		p.cmd.Wait()
		close(p.done)
	}()
}

// expect NAME REGEXP waits until a started process prints something that
// matches, beyond what earlier ones matched.
func cmdExpect(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "expect NAME REGEXP")
	p := named(ts, args)
	re, err := regexp.Compile("(?m)" + strings.Join(args[1:], " "))
	ts.Check(err)
	if err := p.expect(re); err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
}

// logged NAME REGEXP is expect for what came at any time.
func cmdLogged(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "logged NAME REGEXP")
	p := named(ts, args)
	p.mu.Lock()
	seen := p.seen
	p.seen = 0
	p.mu.Unlock()
	cmdExpect(ts, neg, args)
	p.mu.Lock()
	p.seen = seen
	p.mu.Unlock()
}

// blocked NAME waits until a started client waits for the answer to a read.
func cmdBlocked(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "blocked NAME")
	p := named(ts, args)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if p.relay == nil {
		ts.Fatalf("%s is not a client", args[0])
	}
	if err := p.relay.reading(ctx); err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
}

// listening NAME VAR… sets variables to the addresses that a started server
// has printed.
func cmdListening(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "listening NAME VAR…")
	p := named(ts, args)
	p.mu.Lock()
	text := p.out.String()
	p.mu.Unlock()
	m := regexp.MustCompile(`(?m)^listening (.*)$`).FindStringSubmatch(text)
	if m == nil {
		ts.Fatalf("%s printed no addresses:\n%s", args[0], text)
	}
	addrs := strings.Fields(m[1])
	if len(addrs) != len(args)-1 {
		ts.Fatalf("%s listens on %d addresses: %s", args[0], len(addrs), m[1])
	}
	for i, a := range addrs {
		ts.Setenv(args[i+1], a)
	}
}

// send NAME TEXT… writes a line to a started process.
func cmdSend(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "send NAME TEXT…")
	_, err := io.WriteString(named(ts, args).stdin, strings.Join(args[1:], " ")+"\n")
	ts.Check(err)
}

// eof NAME ends the input of a started process.
func cmdEOF(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "eof NAME")
	ts.Check(named(ts, args).stdin.Close())
}

// signal NAME INT|TERM|KILL sends a signal to a started process.
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "signal NAME INT|TERM|KILL")
	sig := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[args[1]]
	if sig == 0 {
		ts.Fatalf("no signal %q", args[1])
	}
	ts.Check(named(ts, args).cmd.Process.Signal(sig))
}

// finish NAME STATUS waits until a started process has ended, and compares its
// exit status, as a shell has it: 128 and the number for a signal.
func cmdFinish(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "finish NAME STATUS")
	p := named(ts, args)
	select {
	case <-p.done:
	case <-time.After(patience):
		ts.Fatalf("%s still runs after %v", args[0], patience)
	}
	p.stdin.Close()
	if got := shellStatus(p.cmd.ProcessState); strconv.Itoa(got) != args[1] {
		ts.Fatalf("%s ended with status %d, not %s, after printing\n%s", args[0], got, args[1], p.out.String())
	}
}

func shellStatus(st *os.ProcessState) int {
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return st.ExitCode()
}

// status N PROGRAM [ARGS…] runs a program, and compares its exit status.
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "status N PROGRAM [ARGS…]")
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = shellStatus(exit.ProcessState)
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("status %d, not %s", got, args[0])
	}
}

// notify makes a socket as a service manager has it, and sets NOTIFY_SOCKET.
func cmdNotify(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 0, "notify")
	path := ts.MkAbs("notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	ts.Check(err)
	ts.Value(procsKey{}).(*procs).notify = conn
	ts.Setenv("NOTIFY_SOCKET", path)
}

// notified TEXT waits for the next message on the socket of notify.
func cmdNotified(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "notified TEXT")
	conn := ts.Value(procsKey{}).(*procs).notify
	conn.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 1024)
	n, err := conn.Read(buf)
	ts.Check(err)
	if got := string(buf[:n]); got != args[0] {
		ts.Fatalf("the service manager was told %q, not %q", got, args[0])
	}
}
