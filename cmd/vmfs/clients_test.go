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
	"os/user"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"9fans.net/go/plan9"
	"9fans.net/go/plan9/client"
	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	go9p "github.com/knusbaum/go9p/client"
	"github.com/knusbaum/go9p/proto"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/ninep/dial"
)

// A foreign9p is a 9P client that others wrote, on a connection of its own.
type foreign9p interface {
	list(dir string) ([]string, error)
	read(name string) (string, error)
	write(name, text string) error
	// block opens a file, reads it once and gives what came of it.
	block(name string) (func() (string, error), error)
}

// TestForeignClients tells each of them the same story: list, read, write
// commands, be refused, block in a read while the others go on, and be
// interrupted.
func TestForeignClients(t *testing.T) {
	s := newServer(t)
	s.start("--log-level", "debug")
	for _, c := range []struct {
		name string
		dial func(t *testing.T, conn net.Conn) foreign9p
		text bool // it is told why in words, and not by an errno
		deaf bool // what it waits for does not end with its connection
	}{
		{"hugelgupf", newHugelgupf, false, false},
		{"9fans", new9fans, true, false},
		{"go9p", newGo9p, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			connect := func() (*countingConn, foreign9p) {
				to, err := dial.Dial(t.Context(), s.addr)
				require.NoError(t, err)
				conn := &countingConn{Conn: to}
				t.Cleanup(func() { conn.Close() })
				return conn, c.dial(t, conn)
			}
			_, cl := connect()
			vm := c.name
			require.NoError(t, cl.write("ctl", "create "+vm))
			names, err := cl.list("")
			require.NoError(t, err)
			for _, want := range []string{"backends", "clone", "ctl", "events", "version", vm} {
				assert.Contains(t, names, want)
			}
			names, err = cl.list(vm)
			require.NoError(t, err)
			assert.Contains(t, names, "console")
			assert.True(t, slices.Contains(names, "state"))

			require.NoError(t, cl.write(vm+"/config", "hypervisor=sim\nvcpus=2"))
			text, err := cl.read(vm + "/config")
			require.NoError(t, err)
			assert.Contains(t, text, "vcpus=2\n")
			read := func(file, want string) {
				t.Helper()
				text, err := cl.read(vm + "/" + file)
				require.NoError(t, err)
				assert.Equal(t, want, text)
			}
			read("state", "created\n")
			require.NoError(t, cl.write(vm+"/ctl", "start"))
			read("state", "running\n")

			refused := func(file, text, want string, errno linux.Errno) {
				t.Helper()
				err := cl.write(vm+"/"+file, text)
				require.Error(t, err)
				if c.text {
					assert.ErrorContains(t, err, want)
				} else {
					assert.ErrorIs(t, err, errno)
				}
				why, err := cl.read(vm + "/error")
				require.NoError(t, err)
				assert.Contains(t, why, want)
			}
			refused("ctl", "frob 12", vm+`: unknown control message: "frob 12"`, linux.EINVAL)
			refused("ctl", "resume", "is running already", linux.EBUSY)
			refused("memory", "lots", `"lots" is not a size`, linux.EINVAL)
			_, err = cl.read(vm + "/nothing")
			require.Error(t, err)

			// A read that blocks holds up nothing on its connection, and ends with
			// what it waited for.
			wait, err := cl.block(vm + "/wait")
			require.NoError(t, err)
			type result struct {
				text string
				err  error
			}
			results := make(chan result, 1)
			go func() {
				text, err := wait()
				results <- result{text, err}
			}()
			read("state", "running\n")
			require.NoError(t, cl.write(vm+"/ctl", "pause"))
			select {
			case r := <-results:
				require.NoError(t, r.err)
				assert.Equal(t, "paused\n", r.text)
			case <-time.After(patience):
				require.Fail(t, "the read of wait does not end")
			}

			// One that is interrupted: none of these clients sends Tflush, so by the
			// end of its connection, at which the server lets go.
			conn, second := connect()
			wait, err = second.block(vm + "/wait")
			require.NoError(t, err)
			sent := conn.sent.Load()
			go func() {
				text, err := wait()
				results <- result{text, err}
			}()
			const tread = 23 // bytes
			require.Eventually(t, func() bool { return conn.sent.Load() >= sent+tread }, patience, time.Millisecond)
			before := strings.Count(s.log.String(), "msg=disconnected")
			conn.Close()
			if !c.deaf {
				select {
				case r := <-results:
					assert.Error(t, r.err, "%q", r.text)
				case <-time.After(patience):
					require.Fail(t, "an interrupted read does not end")
				}
			}
			require.Eventually(t, func() bool { return strings.Count(s.log.String(), "msg=disconnected") > before }, patience, 5*time.Millisecond)
			read("state", "paused\n")
			require.NoError(t, cl.write(vm+"/ctl", "kill"))
			require.NoError(t, cl.write("ctl", "delete "+vm))
		})
	}
	assert.NotContains(t, s.log.String(), "that was cancelled goes on")
}

// A countingConn counts the bytes that were sent.
type countingConn struct {
	net.Conn
	sent atomic.Int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

type hugelgupf struct{ root p9.File }

func newHugelgupf(t *testing.T, conn net.Conn) foreign9p {
	c, err := p9.NewClient(conn)
	require.NoError(t, err)
	root, err := c.Attach("")
	require.NoError(t, err)
	return hugelgupf{root}
}

func (c hugelgupf) open(name string, mode p9.OpenFlags) (p9.File, error) {
	var names []string
	if name != "" {
		names = strings.Split(name, "/")
	}
	_, f, err := c.root.Walk(names)
	if err != nil {
		return nil, err
	}
	_, _, err = f.Open(mode)
	return f, err
}

func (c hugelgupf) list(dir string) (names []string, err error) {
	f, err := c.open(dir, p9.ReadOnly)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for off := uint64(0); ; {
		ents, err := f.Readdir(off, 4096)
		if err != nil || len(ents) == 0 {
			return names, err
		}
		for _, e := range ents {
			names, off = append(names, e.Name), e.Offset
		}
	}
}

func (c hugelgupf) read(name string) (string, error) {
	f, err := c.open(name, p9.ReadOnly)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	return string(b), err
}

func (c hugelgupf) write(name, text string) error {
	f, err := c.open(name, p9.WriteOnly)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte(text+"\n"), 0)
	return err
}

func (c hugelgupf) block(name string) (func() (string, error), error) {
	f, err := c.open(name, p9.ReadOnly)
	return func() (string, error) {
		buf := make([]byte, 100)
		n, err := f.ReadAt(buf, 0)
		if n > 0 {
			err = nil
		}
		return string(buf[:n]), err
	}, err
}

type ninefans struct{ fsys *client.Fsys }

func new9fans(t *testing.T, conn net.Conn) foreign9p {
	c, err := client.NewConn(conn)
	require.NoError(t, err)
	fsys, err := c.Attach(nil, "", "")
	require.NoError(t, err)
	return ninefans{fsys}
}

func (c ninefans) list(dir string) (names []string, err error) {
	f, err := c.fsys.Open("/"+dir, plan9.OREAD)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	dirs, err := f.Dirreadall()
	for _, d := range dirs {
		names = append(names, d.Name)
	}
	return names, err
}

func (c ninefans) read(name string) (string, error) {
	f, err := c.fsys.Open(name, plan9.OREAD)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	return string(b), err
}

func (c ninefans) write(name, text string) error {
	f, err := c.fsys.Open(name, plan9.OWRITE|plan9.OTRUNC)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write([]byte(text + "\n"))
	return err
}

func (c ninefans) block(name string) (func() (string, error), error) {
	f, err := c.fsys.Open(name, plan9.OREAD)
	return func() (string, error) {
		buf := make([]byte, 100)
		n, err := f.Read(buf)
		return string(buf[:n]), err
	}, err
}

type knusbaum struct{ c *go9p.Client }

func newGo9p(t *testing.T, conn net.Conn) foreign9p {
	me, err := user.Current()
	require.NoError(t, err)
	c, err := go9p.NewClient(conn, me.Username, "")
	require.NoError(t, err)
	return knusbaum{c}
}

func (c knusbaum) list(dir string) (names []string, err error) {
	stats, err := c.c.Readdir("/" + dir)
	for _, st := range stats {
		names = append(names, st.Name)
	}
	return names, err
}

func (c knusbaum) read(name string) (string, error) {
	f, err := c.c.Open("/"+name, proto.Oread)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	return string(b), err
}

func (c knusbaum) write(name, text string) error {
	f, err := c.c.Open("/"+name, proto.Owrite)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write([]byte(text + "\n"))
	return err
}

func (c knusbaum) block(name string) (func() (string, error), error) {
	f, err := c.c.Open("/"+name, proto.Oread)
	return func() (string, error) {
		buf := make([]byte, 100)
		n, err := f.Read(buf)
		return string(buf[:n]), err
	}, err
}

// TestDiodClients is the same story as far as the clients of Debian's diod go,
// which write nothing.
func TestDiodClients(t *testing.T) {
	s := newServer(t)
	s.start("--log-level", "debug")
	s.makeVM("web", "hypervisor=sim\n")
	s.must("write", "web/ctl", "start")
	sock := strings.TrimPrefix(s.addr, "unix!")
	diod := func(ctx context.Context, name string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, needDiod(t, name), append([]string{"-s", sock}, args...)...)
		cmd.WaitDelay = time.Second
		return cmd
	}
	run := func(name string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		out, err := diod(ctx, name, args...).CombinedOutput()
		require.NoError(t, ctx.Err(), "%s %q hangs", name, args)
		return string(out), err
	}

	out, err := run("diodls", "-a", "/")
	require.NoError(t, err, out)
	assert.ElementsMatch(t, []string{"backends", "clone", "ctl", "events", "version", "web"}, strings.Fields(out))
	out, err = run("diodls", "-a", "/", "-l", "web")
	require.NoError(t, err, out)
	assert.Regexp(t, `(?m)^-r--------.* 0 .* state$`, out)
	out, err = run("diodls", "-a", "web")
	require.NoError(t, err, out)
	assert.Contains(t, strings.Fields(out), "console", "a VM's directory attached to")
	out, err = run("diodcat", "-a", "/", "web/state", "web/config")
	require.NoError(t, err, out)
	assert.True(t, strings.HasPrefix(out, "running\nhypervisor=sim\n"), out)
	out, err = run("diodcat", "-a", "/", "web/nothing")
	require.Error(t, err)
	assert.Contains(t, out, "No such file or directory")
	out, err = run("diodcat", "-a", "nothing", "state")
	require.Error(t, err)
	assert.Contains(t, out, "No such file or directory")

	// diodload reads and writes files that only diod has; it has to say so and end.
	out, _ = run("diodload", "-n", "2", "-r", "1", "-g")
	assert.Contains(t, out, "0 ops/s")

	// A reader that blocks, and gets what it waited for; and one that is
	// interrupted.
	block := func(file string) (*exec.Cmd, *bytes.Buffer) {
		before := strings.Count(s.log.String(), "msg=connected")
		cmd := diod(t.Context(), "diodcat", "-a", "/", file)
		out := new(bytes.Buffer)
		cmd.Stdout = out
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool { return strings.Count(s.log.String(), "msg=connected") > before }, patience, 5*time.Millisecond)
		return cmd, out
	}
	// Its read begins some time after it has connected, so the state changes
	// until it has seen one.
	cmd, text := block("web/wait")
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	verb := "pause"
	for deadline := time.Now().Add(patience); len(ended) == 0; time.Sleep(20 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "diodcat of wait does not end")
		s.must("write", "web/ctl", verb)
		verb = map[string]string{"pause": "resume", "resume": "pause"}[verb]
	}
	require.NoError(t, <-ended)
	assert.Contains(t, []string{"paused\n", "running\n"}, text.String())

	cmd, _ = block("web/wait")
	before := strings.Count(s.log.String(), "msg=disconnected")
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool { return strings.Count(s.log.String(), "msg=disconnected") > before }, patience, 5*time.Millisecond)
	assert.NotEmpty(t, s.must("cat", "web/state"))
}

// needDiod finds a program of diod's.
func needDiod(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin", "/sbin"} {
		p, err := exec.LookPath(path.Join(dir, name))
		if err == nil {
			return p
		}
		require.True(t, errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist), "%v", err)
	}
	msg := fmt.Sprintf("no %s: apt-get install diod", name)
	if os.Getenv("CI") == "true" {
		t.Fatal(msg)
	}
	t.Skip(msg)
	return ""
}
