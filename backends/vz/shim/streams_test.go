package shim_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/serial"
	"vmfs/backends/sim"
	"vmfs/backends/vz/shimapi"
	"vmfs/guest/control"
	"vmfs/internal/unixsock"
	"vmfs/vsock"
)

// booted is a shim whose guest is up.
func booted(t *testing.T, change ...func(*shimConfig)) *rig {
	t.Helper()
	r := boot(t, change...)
	r.ask(shimapi.MethodStart, nil, nil)
	r.logged(sim.ReadyLine)
	return r
}

// logged waits until the console's log has a text.
func (r *rig) logged(text string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		b, err := os.ReadFile(r.config.Console.Log)
		return err == nil && bytes.Contains(b, []byte(text))
	}, patience, time.Millisecond, text)
}

func (r *rig) hybrid() *vsock.Hybrid {
	return &vsock.Hybrid{Socket: r.config.Vsock.Socket, Timeout: patience}
}

// typeAt types at the console.
func (r *rig) typeAt(text string) {
	r.t.Helper()
	c, err := serial.Open(r.t.Context(), r.config.Console.Socket)
	require.NoError(r.t, err)
	_, err = io.WriteString(c, text)
	require.NoError(r.t, err)
	require.Eventually(r.t, c.Drained, patience, time.Millisecond)
	require.NoError(r.t, c.Close())
}

// TestSocketsFirst has all sockets before there is a VM.
func TestSocketsFirst(t *testing.T) {
	r := boot(t)
	assert.Equal(t, shimapi.PhaseCreated, func() shimapi.Phase {
		for {
			if i := r.info(); i.Phase != shimapi.PhaseMaking {
				return i.Phase
			}
		}
	}())
	for _, path := range []string{r.config.Console.Socket, r.config.Vsock.Socket} {
		served, err := unixsock.Served(path)
		require.NoError(t, err)
		assert.True(t, served, path)
		fi, err := os.Stat(path)
		require.NoError(t, err)
		assert.Zero(t, fi.Mode().Perm()&0o077, path)
	}
	r.ask(shimapi.MethodQuit, nil, nil)
	<-r.done
	for _, path := range []string{r.config.Console.Socket, r.config.Vsock.Socket, r.path("vz.sock")} {
		assert.NoFileExists(t, path)
	}
}

// TestConsole types, and finds all of it in the log; a second client is refused.
func TestConsole(t *testing.T) {
	r := booted(t)
	c, err := serial.Open(t.Context(), r.config.Console.Socket)
	require.NoError(t, err)
	_, err = serial.Open(t.Context(), r.config.Console.Socket)
	require.ErrorContains(t, err, "another client")
	_, err = io.WriteString(c, "echo hello\r")
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	var said []byte
	for b := make([]byte, 64); !bytes.Contains(said, []byte("\r\nhello\r\n")); {
		n, err := c.Read(b)
		require.NoError(t, err)
		said = append(said, b[:n]...)
	}
	require.NoError(t, c.Close())
	r.logged("\r\nhello\r\n")
	// What is typed while the guest stands still waits for it.
	r.ask(shimapi.MethodPause, nil, nil)
	r.typeAt("echo later\r")
	r.ask(shimapi.MethodResume, nil, nil)
	r.logged("\r\nlater\r\n")
	// The last words are in the log when the shim has ended.
	r.typeAt("poweroff\r")
	require.Eventually(t, func() bool { return r.info().Phase == shimapi.PhaseEnded }, patience, time.Millisecond)
	r.ask(shimapi.MethodQuit, nil, nil)
	<-r.done
	r.logged("power off")
}

// TestHalfClose has each way of a stream end by itself, in both orders.
func TestHalfClose(t *testing.T) {
	r := booted(t)
	c, err := r.hybrid().DialVsock(t.Context(), sim.PortEcho)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(c, "to the end")
	require.NoError(t, err)
	require.NoError(t, c.(vsock.Conn).CloseWrite())
	assert.Equal(t, "to the end", tail(t, c), "the guest answers after the end of what it reads")

	c, err = r.hybrid().DialVsock(t.Context(), sim.PortDaytime) // which ends its way at once
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	assert.NotEmpty(t, tail(t, c))
	_, err = io.WriteString(c, "and is still written to")
	require.NoError(t, err)
	require.NoError(t, c.(vsock.Conn).CloseWrite())
}

// TestVsockRequests is what else may come on the socket.
func TestVsockRequests(t *testing.T) {
	r := booted(t)
	_, err := r.hybrid().DialVsock(t.Context(), 4242)
	require.ErrorIs(t, err, vsock.ErrRefused)
	for _, said := range []string{"\n", "GET / HTTP/1.1\n", "CONNECT\n", "CONNECT 0\n", "CONNECT x\n", "CONNECT 4294967295\n", "LISTEN 0\n", "connect 7\n", strings.Repeat("C", 100)} {
		c, err := unixsock.Dial(t.Context(), r.config.Vsock.Socket)
		require.NoError(t, err)
		require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
		_, err = io.WriteString(c, said)
		require.NoError(t, err)
		b, _ := io.ReadAll(c) // cut off, which may be a reset
		assert.Empty(t, b, said)
		require.NoError(t, c.Close())
	}
	// Many at once, each by itself.
	var streams sync.WaitGroup
	for range 20 {
		streams.Go(func() {
			c, err := r.hybrid().DialVsock(t.Context(), sim.PortEcho)
			if !assert.NoError(t, err) {
				return
			}
			defer c.Close()
			data := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
			go func() {
				_, _ = c.Write(data)
				_ = c.(vsock.Conn).CloseWrite()
			}()
			b, err := io.ReadAll(c)
			assert.NoError(t, err)
			assert.True(t, bytes.Equal(data, b))
		})
	}
	streams.Wait()
}

// TestToHost is the guest's way out: to who serves <socket>_P, whether that was there before
// the VM, has come by itself or was announced, and to nobody else.
func TestToHost(t *testing.T) {
	r := boot(t)
	accept := func(l net.Listener, text string) {
		t.Helper()
		c, err := l.Accept()
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
		require.NoError(t, c.(vsock.Conn).CloseWrite())
		assert.Equal(t, text+"\n", tail(t, c))
	}
	before, err := r.hybrid().ListenVsock(t.Context(), 2001)
	require.NoError(t, err)
	defer before.Close()
	r.ask(shimapi.MethodStart, nil, nil)
	r.logged(sim.ReadyLine)
	r.typeAt("dial 2001 before\r")
	accept(before, "before")

	r.typeAt("dial 2002 nobody\r")
	r.logged("connection refused")

	after, err := r.hybrid().ListenVsock(t.Context(), 2003)
	require.NoError(t, err)
	defer after.Close()
	c, err := unixsock.Dial(t.Context(), r.config.Vsock.Socket)
	require.NoError(t, err)
	_, err = io.WriteString(c, "LISTEN 2003\n")
	require.NoError(t, err)
	assert.Equal(t, "OK 2003\n", tail(t, c))
	r.typeAt("dial 2003 after\r")
	accept(after, "after")

	// One that is not announced is found all the same; when, the system decides.
	later, err := r.hybrid().ListenVsock(t.Context(), 2004)
	require.NoError(t, err)
	defer later.Close()
	came := make(chan struct{})
	go func() {
		defer close(came)
		accept(later, "later")
	}()
	for tries := 0; ; tries++ {
		require.Less(t, tries, 1000)
		r.typeAt("dial 2004 later\r")
		select {
		case <-came:
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// TestWake is a host that has slept: the guest's clock is set.
func TestWake(t *testing.T) {
	t.Parallel() // it waits
	var mu sync.Mutex
	var slept time.Duration
	began := time.Now()
	r := booted(t, func(c *shimConfig) {
		c.Now = func() (time.Time, time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(slept).Round(0), time.Since(began)
		}
	})
	r.ask(shimapi.MethodEvents, shimapi.After{}, nil)
	mu.Lock()
	slept = time.Hour
	mu.Unlock()
	events := until(t, r.client, shimapi.EventWake)
	assert.Equal(t, "1h0m0s", events[len(events)-1].Detail)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.Eventually(t, func() bool {
		c, err := control.Dial(ctx, r.hybrid())
		if err != nil {
			return false
		}
		defer c.Close()
		now, err := c.Clock(ctx)
		return err == nil && time.Until(now) > 30*time.Minute
	}, patience, 10*time.Millisecond)
}
