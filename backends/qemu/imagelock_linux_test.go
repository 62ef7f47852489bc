package qemu

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"vmfs/backends/hypervisor"
)

// TestImageLocked has an image of which another QEMU lets go a moment after its end,
// and one of which it does not.
func TestImageLocked(t *testing.T) {
	s := newTestStarter(t)
	dir := shortDir(t)
	config := bare(dir)
	image := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(image, make([]byte, mib), 0o600))
	config.Disks = []hypervisor.DiskConfig{{Path: image}}

	first := startTest(t, s, dir, config)
	held, err := os.Open(image)
	require.NoError(t, err)
	defer held.Close()
	require.True(t, locked(held), "QEMU's locks are where they are looked for")
	first.end()
	require.False(t, locked(held))

	lock := unix.Flock_t{Type: unix.F_RDLCK, Start: 201, Len: 1} // nobody else is to write
	require.NoError(t, unix.FcntlFlock(held.Fd(), unix.F_OFD_SETLK, &lock))
	began := time.Now()
	other := shortDir(t)
	_, _, err = s.StartVM(testContext(t), nil, "", filepath.Join(other, SocketName), config)
	require.ErrorContains(t, err, "lock")
	assert.ErrorContains(t, err, image)
	assert.GreaterOrEqual(t, time.Since(began), imageWait)
	expectNothing(t, other)

	timer := time.AfterFunc(imageWait/4, func() { _ = held.Close() })
	defer timer.Stop()
	again := startTest(t, s, dir, config)
	assert.Equal(t, hypervisor.StateRunning, again.info().State)
	again.end()
}
