package handle

import (
	"fmt"
	"net"
	"time"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
)

// ExitWait is how long it may take until a process that has ended, or has hung up, is known to
// have ended.
const ExitWait = time.Second

// A Watched is the process of a VMM, whose end the handle waits for.
type Watched struct {
	process.Process
	h    *Handle
	gone chan struct{} // closed when the process has ended; exit is set then
	exit string
}

// Watch waits for the process's end, beside the handle's callers.
func (h *Handle) Watch(p process.Process) *Watched {
	w := &Watched{Process: p, h: h, gone: make(chan struct{})}
	h.Spawn(w.watch)
	return w
}

func (w *Watched) watch() {
	how, err := w.WaitExit(w.h.Life)
	if err != nil {
		if w.h.Life.Err() == nil {
			w.h.Log.Error("the end of a VMM will not be noticed", "pid", w.PID, "err", err)
		}
		return
	}
	w.exit = how.String()
	if c := w.h.Child; c != nil {
		// Its parent is told more, a moment later.
		if c.Await(w.h.Life, ExitWait) == nil {
			w.exit = c.How()
		}
	}
	close(w.gone)
}

// Gone is closed when the process has ended.
func (w *Watched) Gone() <-chan struct{} { return w.gone }

// Exit is how the process has ended, where that is known; "" as well while it has not.
func (w *Watched) Exit() string {
	if w.Over() {
		return w.exit
	}
	return ""
}

// Over tells whether the process has ended.
func (w *Watched) Over() bool {
	select {
	case <-w.gone:
		return true
	default:
		return false
	}
}

// Absent makes an error of one that nobody answers: the process has ended, or it lives and
// cannot be reached any more.
func (w *Watched) Absent(err error) error {
	timer := time.NewTimer(ExitWait)
	defer timer.Stop()
	select {
	case <-w.gone:
		if w.exit != "" {
			return fmt.Errorf("%w (%s)", hypervisor.ErrHypervisorNotRunning, w.exit)
		}
		return hypervisor.ErrHypervisorNotRunning
	case <-timer.C:
		// It is not wrapped: the VMM runs.
		return fmt.Errorf("process %d runs, but does not answer on its socket any more; it can only be killed: %v", w.PID, err)
	case <-w.h.Life.Done():
		return net.ErrClosed
	}
}
