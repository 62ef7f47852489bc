package qemu

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// TestShutdownLate orders the end of a QEMU whose guest has ended, as GetVMInfo told:
// once, be it too late, and never again.
func TestShutdownLate(t *testing.T) {
	for name, gone := range map[string]bool{"in time": false, "too late": true} {
		t.Run(name, func(t *testing.T) {
			s := newTestStarter(t)
			dir := shortDir(t)
			v := startTest(t, s, dir, bare(dir))
			v.Info(hypervisor.StateShutdown, "", nil) // as if by GetVMInfo: the guest has none that could end
			if gone {
				require.NoError(t, v.Child.Kill())
				<-v.conn.Done()
			}
			require.NoError(t, v.Shutdown(testContext(t)))
			<-v.conn.Done()
			assert.ErrorIs(t, v.Shutdown(testContext(t)), hypervisor.ErrHypervisorNotRunning)
		})
	}
}
