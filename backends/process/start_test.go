//go:build unix

package process_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/process"
)

const mainName = "vmfs-process-test"

func init() {
	process.Main(mainName, func(args []string) int {
		fmt.Println("I am", os.Args[0], "with", args)
		return 7
	})
}

// shell starts a shell with a script and returns it with its log.
func shell(t *testing.T, script string, change func(*process.Command)) (*process.Child, string) {
	t.Helper()
	c := process.Command{Path: "/bin/sh", Args: []string{"-c", script}, Log: filepath.Join(t.TempDir(), "log")}
	if change != nil {
		change(&c)
	}
	child, err := process.Start(within(t), c)
	require.NoError(t, err)
	t.Cleanup(func() { child.Kill() })
	return child, c.Log
}

func ended(t *testing.T, c *process.Child) string {
	t.Helper()
	require.NoError(t, c.Await(within(t), 30*time.Second))
	return c.Said()
}

func TestStart(t *testing.T) {
	t.Setenv("VMFS_SECRET", "x")
	a, b, err := os.Pipe()
	require.NoError(t, err)
	defer a.Close()
	c, log := shell(t, `pwd; echo "secret:$VMFS_SECRET"; echo hello >&3; ls /proc/self/fd; exit 3`, func(c *process.Command) { c.Files = []*os.File{b} })
	require.NoError(t, b.Close())
	said := ended(t, c)
	assert.Equal(t, "exit status 3", c.How())
	assert.Regexp(t, `^/; secret:; 0; 1; 2; 3(; 4)?$`, said, "4 is of ls itself")
	buf := make([]byte, 6)
	_, err = a.Read(buf)
	require.NoError(t, err)
	assert.Equal(t, "hello\n", string(buf))
	fi, err := os.Stat(log)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), fi.Mode())

	// What others have said there is not said again.
	c, _ = shell(t, "echo more; echo; echo '  and  more'", func(c *process.Command) { c.Log = log })
	assert.Equal(t, "more; and  more", ended(t, c))
	assert.Equal(t, "exit status 0", c.How())
	assert.False(t, c.Alive())
}

func TestStartFails(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	_, err := process.Start(within(t), process.Command{Path: "/no/such/program", Log: log})
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, "/no/such/program")
	_, err = process.Start(within(t), process.Command{Path: log, Log: log})
	assert.ErrorIs(t, err, os.ErrPermission)
	_, err = process.Start(within(t), process.Command{Path: "/bin/true", Log: filepath.Join(log, "x")})
	assert.ErrorIs(t, err, syscall.ENOTDIR)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = process.Start(ctx, process.Command{Path: "/bin/true", Log: log})
	if err != nil { // or it was done by then
		assert.ErrorIs(t, err, context.Canceled)
	}
}

func TestKill(t *testing.T) {
	beside, _ := shell(t, "exec sleep 600", nil)
	c, _ := shell(t, "echo up; exec sleep 600", nil)
	c.Beside = append(c.Beside, beside)
	assert.Empty(t, c.How())
	assert.ErrorContains(t, c.Await(t.Context(), time.Millisecond), "does not end")
	assert.True(t, c.Alive())
	sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(c.PID), 0, 0)
	require.Zero(t, errno)
	assert.EqualValues(t, c.PID, sid, "a session of its own")
	require.NoError(t, c.Kill())
	require.NoError(t, c.Kill())
	assert.Equal(t, "signal: killed", c.How())
	assert.Equal(t, "signal: killed", beside.How())
}

// What a process has said is in the error of the start that failed.
func TestAbandon(t *testing.T) {
	failed := errors.New("it does not answer")
	words := process.Words{Program: "vmm", Plain: strings.ToUpper}
	c, _ := shell(t, "echo no disk; exec sleep 600", nil)
	require.Eventually(t, func() bool { return c.Said() != "" }, 30*time.Second, time.Millisecond)
	err := c.Abandon(t.Context(), failed, words)
	assert.ErrorIs(t, err, failed)
	assert.EqualError(t, err, "it does not answer; the log says: NO DISK")
	assert.Equal(t, "signal: killed", c.How())

	// One that is ending is let finish.
	words.Ending = true
	c, _ = shell(t, "sleep 0.05; echo no disk; exit 3", nil)
	assert.EqualError(t, c.Abandon(t.Context(), failed, words), "vmm ended (exit status 3): NO DISK")
	c, _ = shell(t, "exit 3", nil)
	assert.EqualError(t, c.Abandon(t.Context(), failed, words), "vmm ended (exit status 3) and said nothing")

	// A start that was given up says so.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c, _ = shell(t, "exec sleep 600", nil)
	err = c.Abandon(ctx, failed, words)
	assert.ErrorIs(t, err, context.Canceled)
	assert.ErrorIs(t, err, failed)
}

// This very program can be started as something else.
func TestMainOfAnotherKind(t *testing.T) {
	c, _ := shell(t, "", func(c *process.Command) { c.Path, c.Name, c.Args = "", mainName, []string{"a", "b"} })
	assert.Equal(t, "I am "+mainName+" with [a b]", ended(t, c))
	assert.Equal(t, "exit status 7", c.How())
}

func BenchmarkStart(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("/bin/true").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("start", func(b *testing.B) {
		c := process.Command{Path: "/bin/true", Log: filepath.Join(b.TempDir(), "log")}
		for b.Loop() {
			child, err := process.Start(b.Context(), c)
			if err == nil {
				err = child.Await(b.Context(), time.Minute)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

// status returns the fields of a process in /proc/PID/status.
func status(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	fields := map[string]string{}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		fields[key] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}
