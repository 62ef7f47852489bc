package qemu

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/guest/guesttest"
	"vmfs/vsock"
	"vmfs/vsock/vhostuser"
)

// deviceRun is a vsock device that runs in the test's own process.
type deviceRun struct {
	cancel context.CancelFunc
	over   chan struct{}
}

func (d *deviceRun) Close() error {
	d.cancel()
	<-d.over
	return nil
}

// TestVsock gives a guest a vsock device of another process's kind, and keeps it
// over a snapshot and a restore.
func TestVsock(t *testing.T) {
	t.Parallel() // with the other tests that wait for a guest
	s := newTestStarter(t)
	var mu sync.Mutex // guards devices
	var devices []*deviceRun
	s.config.StartVsockDevice = func(ctx context.Context, d VsockDevice) (io.Closer, error) {
		dev, err := vhostuser.New(vhostuser.Config{
			QEMUSocket: d.QEMUSocket, HostSocket: d.Socket, CID: d.CID, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithCancel(context.Background())
		run := &deviceRun{cancel, make(chan struct{})}
		mu.Lock()
		defer mu.Unlock()
		devices = append(devices, run)
		go func() {
			defer close(run.over)
			_ = dev.Run(ctx) // it ends with the VM, or is ended
		}()
		return run, nil
	}
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, d := range devices {
			_ = d.Close() // never fails
		}
	})

	dir := shortDir(t)
	config := bare(dir)
	config.KernelPath, config.InitrdPath = guesttest.Image(t)
	config.KernelArgs = "quiet"
	config.MemoryBytes = 128 * mib
	config.VsockCID, config.VsockSocket = 77, filepath.Join(dir, "vsock.sock")
	v := startTest(t, s, dir, config)
	assert.True(t, v.Capabilities().SupportsVsock)
	v.ready(0)

	// The guest serves nothing: that it refuses shows that it is there.
	refuses := func() {
		t.Helper()
		dialer := &vsock.Hybrid{Socket: config.VsockSocket, Timeout: patience}
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := dialer.DialVsock(ctx, 4242)
			assert.ErrorIs(c, err, vsock.ErrRefused)
		}, patience, 100*time.Millisecond)
	}
	refuses()
	snap := filepath.Join(t.TempDir(), "snap")
	for range 2 {
		require.NoError(t, v.Snapshot(testContext(t), snap))
		assert.Equal(t, hypervisor.StateRunning, v.info().State)
		refuses()
		snap += "x"
	}
	require.NoError(t, v.Pause(testContext(t)))
	require.ErrorIs(t, v.Snapshot(testContext(t), snap), hypervisor.ErrBusy, "only a guest that runs gives up the device")
	v.end()

	_, hv, err := s.RestoreVM(testContext(t), nil, "", filepath.Join(dir, SocketName), snap[:len(snap)-1])
	require.NoError(t, err)
	v = ended(t, s, dir, config, hv.(*VM))
	assert.Equal(t, hypervisor.StatePaused, v.info().State)
	require.NoError(t, v.Resume(testContext(t)))
	refuses()
}
