package hostnet

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hostnet/hostnettest"
	"vmfs/backends/hypervisor"
	"vmfs/guest/guesttest"
)

func needPasst(t *testing.T) {
	t.Helper()
	if err := hostnettest.Passt(); err != nil {
		guesttest.Missing(t, err.Error())
	}
}

func TestPasstArgs(t *testing.T) {
	always := []string{"--quiet", "--foreground", "--fd", "3", "--pid", "/proc/self/fd/1"}
	args, err := passtArgs(nil)
	require.NoError(t, err)
	assert.Equal(t, always, args)
	args, err = passtArgs([]string{"tcp:127.0.0.1:2222:22", "udp::53:5353", "tcp:[::1]:80:8080"})
	require.NoError(t, err)
	assert.Equal(t, append(always, "-t", "127.0.0.1/2222:22", "-u", "53:5353", "-t", "::1/80:8080"), args)
	_, err = passtArgs([]string{"tcp:h:1:1"})
	require.ErrorIs(t, err, hypervisor.ErrInvalid)
}

// TestPasst has a passt that is there as long as somebody has its VMM's end.
func TestPasst(t *testing.T) {
	needPasst(t)
	port := hostnettest.FreePort(t)
	c := &hypervisor.VMConfig{Networks: []hypervisor.NetworkConfig{{User: true}, {Passt: true, Forwards: []string{"tcp:127.0.0.1:" + port + ":22"}}}}
	_, _, err := Open(t.Context(), c, 0, "")
	require.ErrorIs(t, err, hypervisor.ErrInvalid, "a user network is the VMM's own")
	f, passt, err := Open(t.Context(), c, 1, filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	require.NoError(t, err, "it is ready when Open returns")
	require.NoError(t, conn.Close())
	assert.Equal(t, 1, hostnettest.Passts(t, port))
	require.NoError(t, f.Close())
	require.NoError(t, passt.Await(t.Context(), 10*time.Second))
	assert.Equal(t, "exit status 0", passt.How(), "it ends by itself")
}

// TestPasstWaits has a port that is taken a moment longer.
func TestPasstWaits(t *testing.T) {
	needPasst(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(taken.Addr().String())
	require.NoError(t, err)
	log := filepath.Join(t.TempDir(), "log")
	go func() {
		// Until a passt has said in the log that it did not get it.
		for b := []byte(nil); !bytes.Contains(b, []byte(port)) && t.Context().Err() == nil; b, _ = os.ReadFile(log) {
			time.Sleep(5 * time.Millisecond)
		}
		_ = taken.Close()
	}()
	f, passt, err := Passt(t.Context(), []string{"tcp:127.0.0.1:" + port + ":22"}, log)
	require.NoError(t, err)
	assert.Equal(t, 1, hostnettest.Passts(t, port))
	require.NoError(t, f.Close())
	require.NoError(t, passt.Kill())
}

func TestFailingPasst(t *testing.T) {
	needPasst(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	_, takenPort, err := net.SplitHostPort(taken.Addr().String())
	require.NoError(t, err)
	program := func(body string) string {
		bin := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(bin, programPasst), []byte("#!/bin/sh\n"+body), 0o700))
		return bin
	}
	for name, c := range map[string]struct {
		port string
		bin  string // before PATH
		path string // instead of PATH
		stop time.Duration
		says []string
		is   error
	}{
		"port taken":    {port: takenPort, says: []string{takenPort}},
		"not installed": {path: t.TempDir(), says: []string{"passt is not installed", "apt-get install passt"}, is: exec.ErrNotFound},
		"a mute one":    {bin: program("exit 3\n"), says: []string{"exit status 3", "said nothing"}},
		"no passt":      {bin: program("echo what is --fd >&2; echo Failed to send 3 bytes to syslog >&2; exit 1\n"), says: []string{": what is --fd"}},
		"one that hangs": {
			bin: program("exec sleep 1000\n"), stop: 300 * time.Millisecond, is: context.DeadlineExceeded,
		},
		"one that does not get ready": {
			bin: program("[ $1 = --help ] || exec sleep 1000\n"), stop: 300 * time.Millisecond, is: context.DeadlineExceeded,
		},
	} {
		t.Run(name, func(t *testing.T) {
			port := c.port
			if port == "" {
				port = hostnettest.FreePort(t)
			}
			switch {
			case c.path != "":
				t.Setenv("PATH", c.path)
			case c.bin != "":
				t.Setenv("PATH", c.bin+":"+os.Getenv("PATH"))
			}
			ctx := t.Context()
			if c.stop != 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, c.stop)
				defer cancel()
			}
			config := &hypervisor.VMConfig{Networks: []hypervisor.NetworkConfig{{Passt: true, Forwards: []string{"tcp:127.0.0.1:" + port + ":22"}}}}
			_, _, err := Open(ctx, config, 0, filepath.Join(t.TempDir(), "log"))
			require.Error(t, err)
			assert.ErrorContains(t, err, "network 0: ")
			for _, says := range c.says {
				assert.ErrorContains(t, err, says)
			}
			if c.is != nil {
				assert.ErrorIs(t, err, c.is)
			}
			assert.NotContains(t, err.Error(), "syslog")
			assert.Zero(t, hostnettest.Passts(t, port), "nothing is left when it returns")
		})
	}
}
