package qemu

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/companion"
	"vmfs/backends/handle"
	"vmfs/backends/hypervisor"
	"vmfs/backends/serial"
	"vmfs/guest"
	"vmfs/guest/guesttest"
)

// withGuest is the configuration of a VM with a guest.
func withGuest(t testing.TB, dir string) hypervisor.VMConfig {
	t.Helper()
	config := bare(dir)
	config.KernelPath, config.InitrdPath = guesttest.Fast(t, guest.Options{})
	config.KernelArgs = "quiet no_timer_check"
	config.MemoryBytes = 128 * mib
	return config
}

// holder finds the process that holds the VM's console.
func (v *testVM) holder() *companion.Companion {
	v.t.Helper()
	p, err := serial.FindOrStart(testContext(v.t), serial.In(v.VM.dir.Dir, &v.config))
	require.NoError(v.t, err)
	require.True(v.t, p.Adopted, "nobody holds the console")
	return p
}

// prints waits until the serial log has text.
func (v *testVM) prints(text string) {
	v.t.Helper()
	require.Eventually(v.t, func() bool {
		b, err := os.ReadFile(v.config.SerialLogPath)
		return err == nil && strings.Contains(string(b), text)
	}, patience, 5*time.Millisecond, "the guest does not print %q", text)
}

// TestConsoleOutlives has a guest print and panic while no server runs, and the process
// that holds its console die with one and without.
func TestConsoleOutlives(t *testing.T) {
	t.Parallel() // with the other tests that wait for a guest
	s := newTestStarter(t)
	dir := shortDir(t)
	v := startTest(t, s, dir, withGuest(t, dir))
	v.ready(0)

	// The process dies, and is started anew by the handle.
	first := v.holder()
	require.NoError(t, first.Signal(syscall.SIGKILL))
	require.NoError(t, first.Wait(testContext(t)))
	sh := v.shell(t)
	assert.Equal(t, "2", sh.run("echo $((1+1))"))
	second := v.holder()
	assert.NotEqual(t, first.PID, second.PID)

	// Many a line at once arrives whole.
	sh.run("seq 1 20000 | sed 's/^/line /'")
	b, err := os.ReadFile(v.config.SerialLogPath)
	require.NoError(t, err)
	assert.Contains(t, string(b), "line 19999\r\nline 20000\r\n")
	assert.Equal(t, 20000, strings.Count(string(b), "\r\nline "))

	// Without a server the guest prints on.
	_, err = io.WriteString(sh.conn, "(sleep 1; echo al''one; sleep 1; echo c > /proc/sysrq-trigger) &\r")
	require.NoError(t, err)
	require.NoError(t, sh.conn.Close())
	require.NoError(t, v.Close())
	v.prints("alone\r\n")
	v.prints("Kernel panic - not syncing")
	v.prints("</TASK>") // at which QEMU stops it, as its panic device has been told
	assert.True(t, second.Alive())

	// The next server finds the process, or starts one if it died meanwhile.
	again := v.reopen()
	assert.Equal(t, second.PID, again.holder().PID)
	require.Eventually(t, func() bool { return again.info().Reason == handle.ReasonPanicked }, patience, 10*time.Millisecond)
	require.NoError(t, again.Close())
	require.NoError(t, second.Signal(syscall.SIGKILL))
	require.NoError(t, second.Wait(testContext(t)))
	again = v.reopen()
	require.NoError(t, again.Reset(testContext(t)))
	from := again.serialSize()
	require.NoError(t, again.Resume(testContext(t)))
	again.ready(from)
	third := again.holder()

	// It ends with QEMU, be it killed.
	require.NoError(t, v.Child.Signal(syscall.SIGKILL))
	require.NoError(t, third.Wait(testContext(t)))
	for _, name := range []string{"console.sock", "console.sock.lock"} {
		assert.NoFileExists(t, v.VM.dir.Path(name))
	}
}

// TestConsoleOfAnEarlierVersion adopts a QEMU that was started without that process:
// its console is QEMU's own still, and nothing is started for it.
func TestConsoleOfAnEarlierVersion(t *testing.T) {
	t.Parallel() // with the other tests that wait for a guest
	s := newTestStarter(t)
	s.aside = false
	dir := shortDir(t)
	v := startTest(t, s, dir, withGuest(t, dir))
	assert.NotContains(t, mustRead(t, v.VM.dir.Record()), `"serial"`, "the record is as it was")
	v.ready(0)
	v.s = newTestStarter(t)
	again := v.reopen()
	sh := again.shell(t)
	assert.Equal(t, "2", sh.run("echo $((1+1))"))
	_, err := again.OpenConsole(testContext(t))
	require.ErrorIs(t, err, hypervisor.ErrBusy)
	require.NoError(t, sh.conn.Close())
	sh = again.shell(t)
	assert.Equal(t, "4", sh.run("echo $((2+2))"))
	require.NoError(t, sh.conn.Close())
	p, err := serial.FindOrStart(testContext(t), serial.Config{Console: v.VM.dir.console(), Output: "/none", Log: filepath.Join(dir, "none.log")})
	require.NoError(t, err)
	assert.False(t, p.Adopted, "a process holds the console of a QEMU that has it itself")
	require.NoError(t, p.Wait(testContext(t)))
}

func mustRead(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}
