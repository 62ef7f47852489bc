package sim

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"vmfs/backends/hypervisor"
)

// A World is a host's simulated VMs. It is to this back end what the host's
// process table is to others: it outlasts the servers that use it, as long as
// the process lives. The zero value is an empty World.
//
// Lock order in this package: VM.mu before World.mu. Never the other way round.
type World struct {
	mu      sync.Mutex     // guards the maps
	sockets map[string]*VM // by absolute socket path
	vsocks  map[string]*VM // by vsock key
}

// NewWorld returns a World without VMs.
func NewWorld() *World { return new(World) }

// VM returns the VM that was started with socketPath and lives.
func (w *World) VM(socketPath string) (*VM, bool) {
	path, err := filepath.Abs(socketPath)
	if err != nil {
		return nil, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	vm, ok := w.sockets[path]
	return vm, ok
}

// VMs returns the VMs that live, by socket path.
func (w *World) VMs() []*VM {
	w.mu.Lock()
	defer w.mu.Unlock()
	vms := make([]*VM, 0, len(w.sockets))
	for _, vm := range w.sockets {
		vms = append(vms, vm)
	}
	slices.SortFunc(vms, func(a, b *VM) int { return strings.Compare(a.socketPath, b.socketPath) })
	return vms
}

// End crashes every VM, as a host does that loses its power.
func (w *World) End() {
	for _, vm := range w.VMs() {
		vm.crash()
	}
}

// Client makes a handle on the VM that was started with socketPath; it is the
// back end's hypervisor.ClientFactory.
func (w *World) Client(socketPath string) (hypervisor.Hypervisor, error) {
	vm, ok := w.VM(socketPath)
	if !ok {
		return nil, fmt.Errorf("sim: connect %s: %w", socketPath, hypervisor.ErrHypervisorNotRunning)
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if err := vm.meet(VerbConnect); err != nil {
		return nil, fmt.Errorf("sim: connect %s: %w", vm.name(), err)
	}
	return vm.newHandle(), nil
}

// Dialer makes a dialer into the guest with that vsock; it is the back end's
// hypervisor.VsockDialerFactory. The guest need not run yet.
func (w *World) Dialer(vsockSocket string, vsockCID int64) hypervisor.VsockDialer {
	return &dialer{world: w, key: vsockKey(vsockSocket, vsockCID)}
}

// vsockKey is what tells a guest's vsock from all others: its socket, else its
// context ID; "" is no vsock.
func vsockKey(socket string, cid int64) string {
	switch {
	case socket != "":
		if abs, err := filepath.Abs(socket); err == nil {
			socket = abs
		}
		return "sim:" + socket
	case cid != 0:
		return "sim:cid:" + strconv.FormatInt(cid, 10)
	}
	return ""
}

func (w *World) add(vm *VM) error {
	key := vsockKey(vm.config.VsockSocket, vm.config.VsockCID)
	w.mu.Lock()
	defer w.mu.Unlock()
	if other, ok := w.sockets[vm.socketPath]; ok {
		return fmt.Errorf("%s is the socket of %s, which runs: %w", vm.socketPath, other.name(), hypervisor.ErrBusy)
	}
	if other, ok := w.vsocks[key]; ok {
		return fmt.Errorf("vsock %s belongs to %s, which runs: %w", strings.TrimPrefix(key, "sim:"), other.name(), hypervisor.ErrBusy)
	}
	if w.sockets == nil {
		w.sockets, w.vsocks = make(map[string]*VM), make(map[string]*VM)
	}
	w.sockets[vm.socketPath] = vm
	if key != "" {
		w.vsocks[key] = vm
	}
	return nil
}

func (w *World) remove(vm *VM) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sockets[vm.socketPath] != vm {
		return
	}
	delete(w.sockets, vm.socketPath)
	delete(w.vsocks, vsockKey(vm.config.VsockSocket, vm.config.VsockCID))
}

func (w *World) byVsock(key string) (*VM, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	vm, ok := w.vsocks[key]
	return vm, ok
}
