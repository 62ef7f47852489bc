package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/guest/exec"
)

// A signal that is ignored, as nohup has SIGHUP, is so in every program that is
// started; one that is heard is not. Nothing ignores it in a guest.
func TestMain(m *testing.M) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	os.Exit(m.Run())
}

// osStarter starts programs where the test is not process 1.
type osStarter struct{}

type osProcess struct {
	pid   int
	done  chan struct{}
	state *os.ProcessState
}

func (osStarter) Start(path string, argv, env []string, dir string, files []*os.File, sys *syscall.SysProcAttr) (Process, error) {
	p, err := os.StartProcess(path, argv, &os.ProcAttr{Dir: dir, Env: env, Files: files, Sys: sys})
	if err != nil {
		return nil, err
	}
	o := &osProcess{pid: p.Pid, done: make(chan struct{})}
	go func() {
		o.state, _ = p.Wait()
		close(o.done)
	}()
	return o, nil
}

func (o *osProcess) Pid() int              { return o.pid }
func (o *osProcess) Done() <-chan struct{} { return o.done }
func (o *osProcess) Status() int {
	if ws := o.state.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return o.state.ExitCode()
}

func newExec(t *testing.T) *Exec {
	return &Exec{Starter: osStarter{}, Env: []string{"PATH=/usr/bin:/bin", "PS1=$ ", "HOME=/"}, Dir: t.TempDir()}
}

func TestPlain(t *testing.T) {
	x := newExec(t)
	dial := serve(t, x.Plain)
	big := strings.Repeat("0123456789abcdef", 1<<16)
	for _, tc := range []struct{ name, in, want string }{
		{"status 0", "echo out; echo err >&2\n", "out\nerr\nstatus 0\n"},
		{"status 7", "exit 7\n", "status 7\n"},
		{"signal", "kill -9 $$\n", "status 137\n"},
		{"carriage return", "echo x\r\n", "x\nstatus 0\n"},
		{"no newline in output", "printf x\n", "x\nstatus 0\n"},
		{"no newline in input", "echo x", "x\nstatus 0\n"},
		{"quiet", "-printf x; exit 3\n", "x"},
		{"input", "wc -l\na\nb\n", "2\nstatus 0\n"},
		{"input not read", "echo x\n" + big, "x\nstatus 0\n"},
		{"much both ways", "-cat\n" + big, big},
		{"nothing", "", ""},
		{"too long", strings.Repeat("x", maxLine) + "\n", "vmfs guest: the command line is longer than 65536 bytes\nstatus 126\n"},
		{"shell", "\necho $((6*7))\nexit 4\n", "$ 42\n$ status 4\n"},
		{"shell ended by the end of input", "\necho x\n", "$ x\n$ \nstatus 0\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := dial()
			go func() {
				_, _ = io.WriteString(c, tc.in) // a service that has ended takes no more
				_ = c.CloseWrite()
			}()
			got, err := io.ReadAll(c)
			require.NoError(t, err)
			if strings.HasPrefix(tc.name, "shell") {
				// The host's shell may prompt in another way than the guest's.
				out := string(got)
				want := tc.want[strings.LastIndex(tc.want, "status"):]
				assert.True(t, strings.HasSuffix(out, want), "%q", out)
				assert.NotContains(t, out, "echo", "no echo")
				return
			}
			assert.Equal(t, tc.want, string(got))
		})
	}
}

// A reader that goes away ends the command at its next write.
func TestPlainReaderGone(t *testing.T) {
	x := newExec(t)
	file := filepath.Join(x.Dir, "pid")
	c := serve(t, x.Plain)()
	_, err := fmt.Fprintf(c, "echo $$ >%s; while :; do echo x; done\n", file)
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err)
	c.Close()
	waitGone(t, file)
}

func TestPlainCannotStart(t *testing.T) {
	x := newExec(t)
	x.Dir = filepath.Join(x.Dir, "absent")
	c := serve(t, x.Plain)()
	_, err := io.WriteString(c, "true\n")
	require.NoError(t, err)
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Contains(t, string(got), "no such file or directory\nstatus 126\n")
}

// waitGone waits for the process whose id is in a file to be gone.
func waitGone(t *testing.T, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	proc := "/proc/" + strings.TrimSpace(string(b))
	require.Eventually(t, func() bool {
		_, err := os.Stat(proc)
		return errors.Is(err, os.ErrNotExist)
	}, 30*time.Second, 10*time.Millisecond)
}

func TestFramed(t *testing.T) {
	x := newExec(t)
	dial := serve(t, x.Framed)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	sh := func(s string) []string { return []string{"sh", "-c", s} }
	for _, tc := range []struct {
		name     string
		cmd      exec.Command
		in       string
		out, err string
		status   int
	}{
		{"output and errors apart", exec.Command{Args: sh("echo out; echo err >&2; exit 5")}, "", "out\n", "err\n", 5},
		{"signal", exec.Command{Args: sh("kill -TERM $$")}, "", "", "", 143},
		{"arguments are not a shell's", exec.Command{Args: []string{"printf", "%s|", "a b", "$x", "", "'"}}, "", "a b|$x||'|", "", 0},
		{"input", exec.Command{Args: []string{"cat"}}, string(big), string(big), "", 0},
		{"input not read", exec.Command{Args: []string{"true"}}, string(big), "", "", 0},
		{"environment", exec.Command{Args: sh("echo $A $HOME"), Env: []string{"A=1", "HOME=/x"}}, "", "1 /x\n", "", 0},
		{"directory", exec.Command{Args: []string{"pwd"}, Dir: "/usr"}, "", "/usr\n", "", 0},
		{"no terminal", exec.Command{Args: []string{"tty"}}, "", "not a tty\n", "", 1},
		{"terminal", exec.Command{Args: sh("stty size; echo err >&2"), TTY: &exec.Size{Rows: 50, Cols: 132}}, "", "50 132\r\nerr\r\n", "", 0},
		{"terminal's input", exec.Command{Args: sh("stty -echo; echo ready; cat"), TTY: &exec.Size{Rows: 1, Cols: 1}}, "", "ready\r\n", "", 0},
		{"a child holds the output", exec.Command{Args: sh("echo x; sleep 1000 & echo $! >pid")}, "", "x\n", "", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			tc.cmd.Stdin, tc.cmd.Stdout, tc.cmd.Stderr = strings.NewReader(tc.in), &out, &errs
			status, err := exec.Run(t.Context(), dial(), tc.cmd)
			require.NoError(t, err)
			assert.Equal(t, tc.status, status)
			// A terminal echoes the end of input that was sent to it.
			assert.Equal(t, tc.out, strings.NewReplacer("^D", "", "\b", "").Replace(out.String()))
			assert.Equal(t, tc.err, errs.String())
		})
	}
	// The child of the last one.
	b, err := os.ReadFile(filepath.Join(x.Dir, "pid"))
	require.NoError(t, err)
	var pid int
	_, err = fmt.Sscan(string(b), &pid)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
}

func TestFramedStartErrors(t *testing.T) {
	x := newExec(t)
	require.NoError(t, os.WriteFile(filepath.Join(x.Dir, "file"), nil, 0o644))
	dial := serve(t, x.Framed)
	for _, tc := range []struct {
		cmd    exec.Command
		status int
		says   string
	}{
		{exec.Command{Args: []string{"no-such-program"}}, 127, "not found"},
		{exec.Command{Args: []string{"/no/such"}}, 127, "not found"},
		{exec.Command{Args: []string{x.Dir + "/file"}}, 126, "permission denied"},
		{exec.Command{Args: []string{"/usr"}}, 126, "permission denied"},
		{exec.Command{Args: []string{"true"}, Dir: "/no/such"}, 126, "no such file"},
		{exec.Command{Args: []string{"true"}, Dir: x.Dir + "/file"}, 126, "not a directory"},
	} {
		_, err := exec.Run(t.Context(), dial(), tc.cmd)
		var se *exec.StartError
		require.ErrorAs(t, err, &se, "%v", tc.cmd)
		assert.Equal(t, tc.status, se.Status)
		assert.Contains(t, se.Error(), tc.says)
		assert.Equal(t, tc.cmd.Args[0], se.Program)
	}
}

// seen is output that a test can wait for.
type seen struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (s *seen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *seen) wait(t *testing.T, want string) {
	t.Helper()
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return strings.Contains(s.text.String(), want)
	}, 30*time.Second, 5*time.Millisecond)
}

// A terminal that changes its size, and signals, while the program reads nothing.
func TestFramedControl(t *testing.T) {
	dial := serve(t, newExec(t).Framed)
	sizes, signals := make(chan exec.Size), make(chan uint8)
	var out seen
	done := make(chan int, 1)
	go func() {
		status, err := exec.Run(t.Context(), dial(), exec.Command{
			Args:   []string{"sh", "-c", `trap 'stty size' WINCH; trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done`},
			TTY:    &exec.Size{Rows: 24, Cols: 80},
			Resize: sizes, Signals: signals, Stdout: &out,
		})
		assert.NoError(t, err)
		done <- status
	}()
	out.wait(t, "ready")
	sizes <- exec.Size{Rows: 10, Cols: 20}
	out.wait(t, "10 20")
	signals <- uint8(syscall.SIGTERM)
	assert.Equal(t, 9, <-done)
}

// More input than the window, none of it read: signals still arrive.
func TestFramedSignalBehindInput(t *testing.T) {
	dial := serve(t, newExec(t).Framed)
	signals := make(chan uint8)
	var out seen
	done := make(chan int, 1)
	go func() {
		status, err := exec.Run(t.Context(), dial(), exec.Command{
			Args: []string{"sh", "-c", "echo ready; exec sleep 1000"}, Stdin: endless{}, Stdout: &out, Signals: signals,
		})
		assert.NoError(t, err)
		done <- status
	}()
	out.wait(t, "ready")
	signals <- uint8(syscall.SIGKILL)
	assert.Equal(t, 137, <-done)
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// A client that is gone takes its program with it, also one that ignores SIGHUP.
func TestFramedHangup(t *testing.T) {
	for _, trap := range []string{"", "trap '' HUP; "} {
		x := newExec(t)
		dial := serve(t, x.Framed)
		ctx, cancel := context.WithCancel(t.Context())
		var out seen
		done := make(chan error, 1)
		go func() {
			_, err := exec.Run(ctx, dial(), exec.Command{
				Args: []string{"sh", "-c", trap + "echo $$ >pid; echo ready; while :; do sleep 0.1; done"}, Stdout: &out,
			})
			done <- err
		}()
		out.wait(t, "ready")
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		waitGone(t, filepath.Join(x.Dir, "pid"))
	}
}

func TestFramedProtocolErrors(t *testing.T) {
	dial := serve(t, newExec(t).Framed)
	for _, in := range []string{
		"I\x00\x00\x00\x01x",                                // no start
		"C\x00\x00\x00\x02{}",                               // no version
		"C\x00\x00\x00\x01{",                                // no JSON
		"C\xff\xff\xff\xff",                                 // too long
		"C\x00\x00\x00\x0d{\"version\":1}",                  // no program
		"C\x00\x00\x00\x1a{\"version\":2,\"args\":[\"x\"]}", // another version
	} {
		c := dial()
		_, err := io.WriteString(c, in)
		require.NoError(t, err)
		require.NoError(t, c.CloseWrite())
		r := exec.NewReader(c)
		kind, payload, err := r.Frame()
		require.NoError(t, err, "%q", in)
		assert.Equal(t, exec.TypeFailed, kind)
		assert.Contains(t, string(payload), "protocol error")
		kind, payload, err = r.Frame()
		require.NoError(t, err)
		assert.Equal(t, exec.TypeExit, kind)
		assert.Equal(t, []byte{126}, payload)
	}
	// Input beyond the window ends the program.
	c := dial()
	w := exec.NewWriter(c)
	require.NoError(t, w.Start(exec.Start{Version: exec.Version, Args: []string{"sleep", "1000"}}))
	for range exec.Window/exec.MaxPayload + 3 {
		if w.Frame(exec.TypeStdin, make([]byte, exec.MaxPayload)) != nil {
			break
		}
	}
	r := exec.NewReader(c)
	for {
		kind, payload, err := r.Frame()
		require.NoError(t, err)
		if kind == exec.TypeExit {
			assert.Equal(t, []byte{128 + byte(syscall.SIGHUP)}, payload)
			break
		}
	}
}
