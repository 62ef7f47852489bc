package sim_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/sim"
)

func TestConsoleCommands(t *testing.T) {
	hv, config := start(t, sim.Config{})
	conn, err := hv.OpenConsole(t.Context())
	require.NoError(t, err)
	_, err = hv.OpenConsole(t.Context())
	require.ErrorIs(t, err, hypervisor.ErrBusy)
	in := bufio.NewReader(conn)
	for _, c := range []struct{ typed, want string }{
		{"help", "commands: help, mem, disk N, echo TEXT, note [TEXT], dial PORT TEXT, poweroff, reboot, panic"},
		{"mem", "268435456"},
		{"echo two  words", "two  words"},
		{"ehco\b\b\bcho back\x7fk", "back"},
		{"note", ""},
		{"bogus 1", "bogus: no such command; try help"},
	} {
		_, err := io.WriteString(conn, c.typed+"\n")
		require.NoError(t, err)
		_, err = in.ReadString('\n') // the echo of what was typed
		require.NoError(t, err)
		line, err := in.ReadString('\n')
		require.NoError(t, err)
		assert.Equal(t, c.want+"\r\n", line, c.typed)
	}

	_, err = io.WriteString(conn, "note remembered\rreboot\r")
	require.NoError(t, err)
	assert.Equal(t, 2, strings.Count(read(t, config.SerialLogPath), sim.ReadyLine))
	_, err = io.WriteString(conn, "poweroff\r")
	require.NoError(t, err)
	rest, err := io.ReadAll(in)
	require.NoError(t, err, "the end of the VM is the end of its console")
	assert.True(t, strings.HasSuffix(read(t, config.SerialLogPath), string(rest)), "the console and the log tell the same")
	_, err = conn.Write([]byte("x"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
	require.NoError(t, conn.Close())
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrClosed)

	var reasons []string
	for e := range hv.Events() {
		if e.Reason != "" {
			reasons = append(reasons, e.Reason)
		}
	}
	assert.Equal(t, []string{sim.ReasonGuestReset, sim.ReasonGuestShutdown}, reasons)
}

// Input waits for a guest that stands still, in bounds.
func TestConsoleOfPausedGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hv, config := start(t, sim.Config{})
		conn, err := hv.OpenConsole(t.Context())
		require.NoError(t, err)
		require.NoError(t, hv.Pause(t.Context()))
		written := make(chan error)
		go func() {
			_, err := io.WriteString(conn, strings.Repeat("\r", 10<<10)+"echo late\r")
			written <- err
		}()
		synctest.Wait()
		select {
		case <-written:
			t.Fatal("a guest that stands still took 10 KiB")
		default:
		}
		require.NoError(t, hv.Resume(t.Context()))
		require.NoError(t, <-written)
		assert.Contains(t, read(t, config.SerialLogPath), "\r\nlate\r\n")

		require.NoError(t, hv.Pause(t.Context()))
		go func() {
			_, err := io.WriteString(conn, strings.Repeat("x", 10<<10))
			written <- err
		}()
		synctest.Wait()
		require.NoError(t, conn.Close())
		require.ErrorIs(t, <-written, os.ErrClosed)
	})
}

func dial(t *testing.T, hv *sim.Handle, port int) net.Conn {
	t.Helper()
	conn, err := hv.VM().World().Dialer("", 42).DialVsock(t.Context(), port)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() }) // may be closed already
	return conn
}

func closeWrite(t *testing.T, conn net.Conn) {
	t.Helper()
	require.NoError(t, conn.(interface{ CloseWrite() error }).CloseWrite())
}

func TestVsockServices(t *testing.T) {
	hv, _ := start(t, sim.Config{})

	echo := dial(t, hv, sim.PortEcho)
	assert.Equal(t, "42:7", echo.RemoteAddr().String())
	data := strings.Repeat("0123456789abcdef", 64<<10)
	var writer sync.WaitGroup
	writer.Go(func() {
		_, err := io.WriteString(echo, data)
		assert.NoError(t, err)
		closeWrite(t, echo)
	})
	got, err := io.ReadAll(echo)
	require.NoError(t, err)
	writer.Wait()
	assert.True(t, data == string(got), "the echo of 1 MiB")
	_, err = echo.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.EPIPE)
	require.NoError(t, echo.Close())
	_, err = echo.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)

	discard := dial(t, hv, sim.PortDiscard)
	_, err = io.WriteString(discard, data)
	require.NoError(t, err)
	closeWrite(t, discard)
	got, err = io.ReadAll(discard)
	require.NoError(t, err)
	assert.Empty(t, got)

	got, err = io.ReadAll(dial(t, hv, sim.PortDaytime))
	require.NoError(t, err)
	_, err = time.Parse(time.RFC1123, strings.TrimSpace(string(got)))
	require.NoError(t, err)

	chargen := bufio.NewReader(dial(t, hv, sim.PortChargen))
	for i := range 1000 {
		line, err := chargen.ReadString('\n')
		require.NoError(t, err)
		require.Len(t, line, 74)
		require.Equal(t, byte(' '+i%95), line[0])
	}
}

func TestVsockDialErrors(t *testing.T) {
	hv, _ := start(t, sim.Config{})
	world := hv.VM().World()
	for _, c := range []struct {
		cid  int64
		port int
		want error
	}{
		{42, 22, syscall.ECONNREFUSED},
		{42, 0, hypervisor.ErrInvalid},
		{42, 1<<32 - 1, hypervisor.ErrInvalid},
		{43, sim.PortEcho, hypervisor.ErrHypervisorNotRunning},
		{0, sim.PortEcho, hypervisor.ErrHypervisorNotRunning},
	} {
		_, err := world.Dialer("", c.cid).DialVsock(t.Context(), c.port)
		require.ErrorIs(t, err, c.want, "%d:%d", c.cid, c.port)
	}
	_, _, err := sim.New(sim.Config{World: world}).StartVM(t.Context(), nil, "", filepath.Join(t.TempDir(), "sim.sock"),
		hypervisor.VMConfig{Name: "db", VsockCID: 42})
	require.ErrorIs(t, err, hypervisor.ErrBusy, "a context ID of the host is one VM's")
	assert.ErrorContains(t, err, "web")
}

// Streams survive a pause, and end with the guest or at their deadline.
func TestVsockStreamsAndTheGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hv, _ := start(t, sim.Config{})
		conn := dial(t, hv, sim.PortEcho)
		require.NoError(t, hv.Pause(t.Context()))
		_, err := io.WriteString(conn, "hello")
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Hour)))
		began := time.Now()
		_, err = conn.Read(make([]byte, 10))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		assert.Equal(t, time.Hour, time.Since(began))
		require.NoError(t, conn.SetDeadline(time.Time{}))

		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err = hv.VM().World().Dialer("", 42).DialVsock(ctx, sim.PortEcho)
		require.ErrorIs(t, err, context.DeadlineExceeded, "a guest that stands still takes no connection")

		require.NoError(t, hv.Resume(t.Context()))
		got := make([]byte, 5)
		_, err = io.ReadFull(conn, got)
		require.NoError(t, err)
		assert.Equal(t, "hello", string(got))

		require.NoError(t, hv.Reset(t.Context()))
		_, err = conn.Read(got)
		require.ErrorIs(t, err, io.EOF, "a reset ends the streams")
		require.NoError(t, conn.Close())

		conn = dial(t, hv, sim.PortEcho)
		ended := make(chan error)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			ended <- err
		}()
		synctest.Wait()
		require.NoError(t, hv.Kill(t.Context()))
		require.ErrorIs(t, <-ended, io.EOF)
		_, err = conn.Write(got)
		require.ErrorIs(t, err, syscall.EPIPE)
		require.NoError(t, conn.Close())
	})
}

func TestSnapshotFiles(t *testing.T) {
	hv, _ := start(t, sim.Config{})
	s := sim.New(sim.Config{World: hv.VM().World()})
	dir := filepath.Join(t.TempDir(), "one")
	require.NoError(t, hv.Snapshot(t.Context(), dir))
	err := hv.Snapshot(t.Context(), dir)
	require.ErrorIs(t, err, os.ErrExist, "a snapshot is not written over another")
	require.NoError(t, hv.Shutdown(t.Context()))

	restore := func() error {
		_, again, err := s.RestoreVM(t.Context(), nil, "", filepath.Join(t.TempDir(), "sim.sock"), dir)
		if err == nil {
			err = again.Shutdown(t.Context())
		}
		return err
	}
	require.NoError(t, restore())
	memory, manifest := filepath.Join(dir, "sim-memory"), filepath.Join(dir, "sim-snapshot.json")
	require.NoError(t, os.WriteFile(memory, []byte("x"), 0o600))
	require.ErrorIs(t, restore(), hypervisor.ErrInvalid, "damaged memory")
	text := read(t, manifest)
	require.NoError(t, os.WriteFile(manifest, []byte(text[:len(text)/2]), 0o600))
	require.ErrorIs(t, restore(), hypervisor.ErrInvalid, "half a manifest")
	require.NoError(t, os.WriteFile(manifest, []byte(`{"format":"of another program"}`), 0o600))
	require.ErrorIs(t, restore(), hypervisor.ErrInvalid, "another format")
}

// A consumer that is slow gets every event in order, and its channel is closed
// behind the last; one that is gone costs nothing after Close.
func TestSlowConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hv, _ := start(t, sim.Config{})
		lost, err := hv.VM().World().Client(hv.VM().SocketPath())
		require.NoError(t, err)
		for range 100 {
			require.NoError(t, hv.Pause(t.Context()))
			require.NoError(t, hv.Resume(t.Context()))
		}
		require.NoError(t, hypervisor.CloseHandle(lost))
		require.NoError(t, hv.Shutdown(t.Context()))
		var states []hypervisor.VMState
		for e := range hv.Events() {
			states = append(states, e.State)
		}
		require.Len(t, states, 1+200+1)
		for i, s := range states[:201] {
			want := hypervisor.StateRunning
			if i%2 == 1 {
				want = hypervisor.StatePaused
			}
			require.Equal(t, want, s, "event %d", i)
		}
		require.NoError(t, hypervisor.CloseHandle(hv))
	})
}

func TestLingeringVMM(t *testing.T) {
	hv, _ := start(t, sim.Config{}, "sim.linger", "yes")
	require.NoError(t, hv.DeleteVM(t.Context()))
	i := info(t, hv)
	assert.Equal(t, hypervisor.StateShutdown, i.State)
	assert.Equal(t, sim.ReasonGuestShutdown, i.Reason)
	for verb, call := range calls(hv, t.TempDir()) {
		switch verb {
		case sim.VerbPause, sim.VerbResume, sim.VerbPowerOff, sim.VerbReset, sim.VerbSnapshot, sim.VerbMemory:
			require.ErrorIs(t, call(t.Context()), hypervisor.ErrBusy, verb)
		}
	}
	require.NoError(t, hv.Shutdown(t.Context()))
}
