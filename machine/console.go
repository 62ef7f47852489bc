package machine

import (
	"context"

	"vmfs/backends/hypervisor"
	"vmfs/machine/console"
)

// OpenConsole begins to read the console: see console.Log.Open. The caller closes the
// reader.
func (v *VM) OpenConsole() *console.Reader { return v.console.Open() }

// WriteConsole gives p to the guest as input of its serial console. The guest
// may be slow to take it, or never do: ctx ends the wait.
func (v *VM) WriteConsole(ctx context.Context, p []byte) (n int, err error) {
	v.mu.Lock()
	s := v.session
	v.mu.Unlock()
	switch {
	case s == nil:
		err = hypervisor.ErrHypervisorNotRunning
	default:
		if n, err = s.input.Write(ctx, p); err != nil && v.host.ctx.Err() != nil {
			err = ErrClosed
		}
	}
	return n, v.wrap("write console of", err)
}
