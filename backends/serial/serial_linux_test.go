package serial_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/companion"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/serial"
	"vmfs/internal/flock"
)

// patience bounds every step.
const patience = 20 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// A rig is a process beside a VMM that the test plays.
type rig struct {
	t      *testing.T
	config serial.Config
	output *os.File // the VMM's standard output
	l      *net.UnixListener
	vmm    *net.UnixConn // the VMM's end of the serial port
	proc   *companion.Companion
}

func newRig(t *testing.T, change func(*serial.Config)) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &rig{t: t, config: serial.Config{
		VMM: filepath.Join(dir, "serial.sock"), Console: filepath.Join(dir, "console.sock"), Output: filepath.Join(dir, "output"),
		SerialLog: filepath.Join(dir, "serial.log"), Log: filepath.Join(dir, "log"),
	}}
	if change != nil {
		change(&r.config)
	}
	r.output, err = serial.MakeOutput(r.config.Output)
	require.NoError(t, err)
	r.proc, err = serial.Start(testContext(t), r.config)
	require.NoError(t, err)
	t.Cleanup(r.end)
	r.listen()
	r.accept()
	return r
}

// end ends the VMM, and with it the process.
func (r *rig) end() {
	_ = r.output.Close()
	if r.vmm != nil {
		_ = r.vmm.Close()
	}
	_ = r.l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	assert.NoError(r.t, r.proc.Wait(ctx), "the process does not end with the VMM")
	if r.t.Failed() {
		b, _ := os.ReadFile(r.config.Log)
		r.t.Logf("log:\n%s", b[max(0, len(b)-2000):])
	}
}

func (r *rig) listen() {
	r.t.Helper()
	var err error
	r.l, err = net.ListenUnix("unix", &net.UnixAddr{Name: r.config.VMM, Net: "unix"})
	require.NoError(r.t, err)
}

// accept has the VMM take a connection to the serial port.
func (r *rig) accept() {
	r.t.Helper()
	require.NoError(r.t, r.l.SetDeadline(time.Now().Add(patience)))
	var err error
	r.vmm, err = r.l.AcceptUnix()
	require.NoError(r.t, err, "nobody connects to the serial port")
	require.NoError(r.t, r.vmm.SetDeadline(time.Now().Add(patience)))
}

// print has the guest print.
func (r *rig) print(text string) {
	r.t.Helper()
	_, err := io.WriteString(r.vmm, text)
	require.NoError(r.t, err)
}

// say has the VMM itself say something.
func (r *rig) say(text string) {
	r.t.Helper()
	_, err := io.WriteString(r.output, text)
	require.NoError(r.t, err)
}

func (r *rig) open() serial.Conn {
	r.t.Helper()
	c, err := serial.Open(testContext(r.t), r.config.Console)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = c.Close() }) // may be closed already
	require.NoError(r.t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// reads reads as much as want has, and compares.
func (r *rig) reads(from io.Reader, want string) {
	r.t.Helper()
	b := make([]byte, len(want))
	n, err := io.ReadFull(from, b)
	require.NoError(r.t, err, "read %q", b[:n])
	require.Equal(r.t, want, string(b))
}

// holds waits until a file is what it should be.
func (r *rig) holds(path, want string) {
	r.t.Helper()
	require.EventuallyWithT(r.t, func(c *assert.CollectT) {
		b, err := os.ReadFile(path)
		assert.NoError(c, err)
		assert.Equal(c, want, string(b))
	}, patience, 2*time.Millisecond)
}

// What guest and VMM say is in their files, and who is connected has it besides.
func TestOutput(t *testing.T) {
	r := newRig(t, nil)
	r.print("booting\n")
	r.say("warning: a word\n")
	r.holds(r.config.SerialLog, "booting\n")
	r.holds(r.config.Log, "warning: a word\n")
	fi, err := os.Stat(r.config.Console)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), fi.Mode().Perm())

	c := r.open()
	r.print("hello")
	r.reads(c, "hello") // and not what was said before
	_, err = serial.Open(testContext(t), r.config.Console)
	require.ErrorIs(t, err, hypervisor.ErrBusy)
	r.print(" again")
	r.reads(c, " again")
	require.NoError(t, c.Close())
	for range 20 {
		c = r.open()
		copied, err := c.File() // as a process has it that is forked just now
		require.NoError(t, err)
		defer copied.Close()
		r.print(".")
		r.reads(c, ".")
		require.NoError(t, c.Close())
	}
	r.holds(r.config.SerialLog, "booting\nhello again"+strings.Repeat(".", 20))

	// The last words reach everybody, and then there are no more.
	c = r.open()
	r.print("panic")
	r.say("killed\n")
	r.end()
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Equal(t, "panic", string(got))
	b, err := os.ReadFile(r.config.SerialLog)
	require.NoError(t, err)
	assert.True(t, strings.HasSuffix(string(b), "panic"), "%q", b)
	b, err = os.ReadFile(r.config.Log)
	require.NoError(t, err)
	assert.True(t, strings.HasSuffix(string(b), "killed\n"), "%q", b)
	for _, path := range []string{r.config.VMM, r.config.Console, r.config.Console + ".lock"} {
		assert.NoFileExists(t, path)
	}
	ctx, cancel := context.WithTimeout(testContext(t), 500*time.Millisecond)
	defer cancel()
	_, err = serial.Open(ctx, r.config.Console)
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

// What is typed is drained when the VMM has taken it, waits for one that does not, and
// goes to it in the order of those who typed, be it that they are gone.
func TestTyping(t *testing.T) {
	r := newRig(t, nil)
	c := r.open()
	drained := func() bool { return c.Drained() }
	assert.True(t, c.Drained())
	_, err := io.WriteString(c, "reboot\r")
	require.NoError(t, err)
	require.Never(t, drained, 50*time.Millisecond, 5*time.Millisecond)
	r.reads(r.vmm, "reboot\r")
	require.Eventually(t, drained, patience, time.Millisecond)

	_, err = io.WriteString(c, "first\r")
	require.NoError(t, err)
	require.NoError(t, c.Close())
	c = r.open()
	_, err = io.WriteString(c, "second\r")
	require.NoError(t, err)
	r.print("out")
	r.reads(c, "out")
	require.Never(t, drained, 50*time.Millisecond, 5*time.Millisecond)
	r.reads(r.vmm, "first\rsecond\r")
	require.Eventually(t, drained, patience, time.Millisecond)

	// One who types more than fits waits, and is not cut off.
	const much = 1 << 20
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(bytes.Repeat([]byte("x"), much))
		wrote <- err
	}()
	select {
	case err := <-wrote:
		t.Fatalf("a megabyte was taken by nobody: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	r.reads(r.vmm, strings.Repeat("x", much))
	require.NoError(t, <-wrote)
}

// A VMM is waited for, and for another connection where it has booted its VM anew; what
// is typed in between too.
func TestReconnects(t *testing.T) {
	r := newRig(t, nil)
	r.print("one\n")
	r.holds(r.config.SerialLog, "one\n")
	require.NoError(t, r.l.Close()) // its file goes with it
	require.NoError(t, r.vmm.Close())
	c := r.open()
	_, err := io.WriteString(c, "typed\r")
	require.NoError(t, err)
	r.listen()
	r.accept()
	r.print("two\n")
	r.reads(r.vmm, "typed\r")
	r.reads(c, "two\n")
	r.holds(r.config.SerialLog, "one\ntwo\n")
}

// Who does not read holds up neither the guest nor the log, and has the last of it.
func TestSlowReader(t *testing.T) {
	r := newRig(t, nil)
	c := r.open()
	const lines = 4 << 20 / 64
	var b strings.Builder
	for i := range lines {
		fmt.Fprintf(&b, "%063d\n", i)
	}
	r.print(b.String())
	r.print("end\n")
	r.holds(r.config.SerialLog, b.String()+"end\n")
	got, n := make([]byte, 64<<10), 0
	var text string
	for !strings.HasSuffix(text, "end\n") {
		m, err := c.Read(got)
		require.NoError(t, err)
		n += m
		text = string(got[:m])
	}
	assert.Less(t, n, 2<<20, "more waited than should")
	assert.Greater(t, n, 64<<10)
}

// The process is killed, and what is said before there is another is not lost where
// the VMM keeps it, as its words are. A Keeper starts it.
func TestKilled(t *testing.T) {
	r := newRig(t, nil)
	r.print("one\n")
	r.say("a word\n")
	r.holds(r.config.SerialLog, "one\n")
	r.holds(r.config.Log, "a word\n")
	c := r.open()

	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	kept := make(chan struct{})
	found, err := serial.FindOrStart(testContext(t), r.config)
	require.NoError(t, err)
	assert.Equal(t, &companion.Companion{Process: r.proc.Process, Adopted: true}, found, "it is found by its lock")
	go func() {
		defer close(kept)
		serial.Keep(ctx, r.config, nil, func() bool { return false }, slog.New(slog.NewTextHandler(t.Output(), nil)))
	}()

	printed := "one\n"
	for range 3 {
		require.NoError(t, r.proc.Signal(syscall.SIGKILL))
		require.NoError(t, r.proc.Wait(testContext(t)))
		r.say("between\n")
		_, err := c.Read(make([]byte, 1))
		require.Error(t, err, "the client's connection ends")
		r.accept()
		r.print("two\n")
		printed += "two\n"
		r.holds(r.config.SerialLog, printed)
		c = r.open()
		r.print("three\n")
		printed += "three\n"
		r.reads(c, "three\n")
		r.proc, err = serial.FindOrStart(testContext(t), r.config)
		require.NoError(t, err)
		assert.True(t, r.proc.Adopted)
	}
	r.holds(r.config.SerialLog, printed)
	r.holds(r.config.Log, "a word\n"+strings.Repeat("between\n", 3))

	cancel()
	<-kept
	require.True(t, r.proc.Alive(), "it outlives the handle")

	// One whose socket is gone is of no use, and is replaced by FindOrStart.
	require.NoError(t, c.Close())
	require.NoError(t, r.open().Close()) // it is there
	require.NoError(t, os.Remove(r.config.Console))
	p, err := serial.FindOrStart(testContext(t), r.config)
	require.NoError(t, err)
	assert.NotEqual(t, r.proc.PID, p.PID)
	assert.False(t, r.proc.Alive())
	r.accept()
	r.proc = p

	// One that has its lock and does not serve yet is waited for.
	dir, err := flock.Dir(testContext(t), filepath.Dir(r.config.Console)) // without which nobody makes a socket there
	require.NoError(t, err)
	require.NoError(t, r.proc.Signal(syscall.SIGKILL))
	require.NoError(t, r.proc.Wait(testContext(t)))
	r.proc, err = serial.Start(testContext(t), r.config)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		pid, err := flock.Holder(testContext(t), r.config.Console+".lock")
		return err == nil && pid == r.proc.PID
	}, time.Minute, time.Millisecond)
	time.AfterFunc(100*time.Millisecond, func() { _ = dir.Close() }) // it was locked alone
	again, err := serial.FindOrStart(testContext(t), r.config)
	require.NoError(t, err)
	assert.Equal(t, &companion.Companion{Process: r.proc.Process, Adopted: true}, again)
	r.accept()

	// A second one beside it does not stay, and says why.
	second, err := serial.Start(testContext(t), r.config)
	require.NoError(t, err)
	require.NoError(t, second.Wait(testContext(t)))
	b, err := os.ReadFile(r.config.Log)
	require.NoError(t, err)
	assert.Contains(t, string(b), "another process serves this console")
	require.NoError(t, serial.End(testContext(t), r.config.Console))
	assert.False(t, p.Alive())
	require.NoError(t, serial.End(testContext(t), r.config.Console), "there is none any more")
}

// Logs stay within their bounds while they grow.
func TestBounds(t *testing.T) {
	const most = 256 << 10
	r := newRig(t, func(c *serial.Config) { c.SerialLogMax, c.LogMax = most, most })
	line := strings.Repeat("x", 1023) + "\n"
	total := 0
	for range 64 {
		for range 64 {
			r.print(line)
			r.say(line)
			total += len(line)
		}
	}
	r.print("end\n")
	r.say("end\n")
	total += len("end\n")
	var printed []byte
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		b, err := os.ReadFile(r.config.Log)
		assert.NoError(c, err)
		assert.True(c, bytes.HasSuffix(b, []byte(line+"end\n")))
		assert.LessOrEqual(c, len(b), most+most/4)
		printed, err = os.ReadFile(r.config.SerialLog)
		assert.NoError(c, err)
		assert.True(c, bytes.HasSuffix(printed, []byte(line+line+"end\n")))
	}, patience, 5*time.Millisecond)
	// What the hole gave back reads as zeros: how many blocks a file has is told late by
	// some file systems. Without holes it is shorter.
	assert.LessOrEqual(t, len(printed), total)
	assert.LessOrEqual(t, len(bytes.TrimLeft(printed, "\x00")), most+most/4)
}

// A VMM that keeps what did not fit is made to send it, though its guest says no more.
func TestStuck(t *testing.T) {
	r := newRig(t, func(c *serial.Config) { c.Stuck = true })
	burst := strings.Repeat("b", 200)
	r.print(burst)
	first := r.vmm
	r.accept() // the new connection, since there was much at once
	require.NoError(t, first.Close())
	r.print("kept")
	r.holds(r.config.SerialLog, burst+"kept")
	c := r.open()
	_, err := io.WriteString(c, "x")
	require.NoError(t, err)
	r.reads(r.vmm, "x")

	// A VMM that does not take another connection keeps the one it has.
	r.print(burst)
	time.Sleep(1500 * time.Millisecond) // for which it would have to hang up
	r.print("on it goes")
	r.holds(r.config.SerialLog, burst+"kept"+burst+"on it goes")
}

// The words of a VMM that dies at its start are in the error of that.
func TestWordsOfAFailedStart(t *testing.T) {
	r := newRig(t, nil)
	said := ""
	for i := range 5 {
		output, err := os.OpenFile(r.config.Output, os.O_RDWR, 0)
		require.NoError(t, err)
		if i == 4 { // the process ends with this one
			require.NoError(t, r.output.Close())
			require.NoError(t, r.vmm.Close())
		}
		child, err := process.Start(testContext(t), process.Command{
			Path: "/bin/sh", Args: []string{"-c", fmt.Sprintf("echo cannot open disk %d >&2; exit 3", i)}, Log: r.config.Log, Output: output,
		})
		require.NoError(t, err)
		require.NoError(t, output.Close())
		if i < 4 {
			require.NoError(t, child.Await(testContext(t), patience))
			said += fmt.Sprintf("cannot open disk %d\n", i)
			r.holds(r.config.Log, said)
			continue
		}
		child.Writer = r.proc.Process
		err = child.Abandon(testContext(t), errors.New("it has hung up"), process.Words{Program: "sh", Ending: true})
		assert.EqualError(t, err, "sh ended (exit status 3): cannot open disk 4")
	}
}

// What cannot be written is the error of the start.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	_, err := serial.Start(testContext(t), serial.Config{SerialLog: filepath.Join(dir, "none", "log"), Log: filepath.Join(dir, "log")})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "serial log: open ")
}
