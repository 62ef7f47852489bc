package qemu

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/digitalocean/go-qemu/qmp/raw"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/internal/unixsock"
)

// Identify asks QEMU for the name and UUID that it was started with, and finds its
// process.
func (vm *VM) Identify(ctx context.Context) (hypervisor.Identity, error) {
	id, err := vm.identify(ctx)
	return id, vm.wrap("identify", err)
}

func (vm *VM) identify(ctx context.Context) (hypervisor.Identity, error) {
	type named struct {
		info raw.NameInfo
		err  error
	}
	first := make(chan named, 1)
	go func() {
		info, err := vm.raw(ctx).QueryName()
		first <- named{info, err}
	}()
	uuid, err := vm.raw(ctx).QueryUUID()
	name := <-first
	if name.err != nil {
		return hypervisor.Identity{}, name.err
	}
	if err != nil {
		return hypervisor.Identity{}, err
	}
	id := hypervisor.Identity{UUID: uuid.UUID}
	if name.info.Name != nil {
		id.Name = *name.info.Name
	}
	if id.UUID == noUUID {
		id.UUID = ""
	}
	id.PID, err = vm.pid()
	return id, err
}

// noUUID is what QEMU says where it was given none.
const noUUID = "00000000-0000-0000-0000-000000000000"

// pid is that of QEMU's process, which has answered.
func (vm *VM) pid() (int, error) {
	vm.findProcess(true)
	vm.mu.Lock()
	proc := vm.proc
	vm.mu.Unlock()
	switch rec := vm.record(); {
	case !proc.IsZero():
		return proc.PID, nil
	case rec != nil && rec.Process != nil:
		return 0, fmt.Errorf("%s is served, and not by the QEMU that was started (pid %d), which has ended", vm.dir.Control(), rec.Process.PID)
	}
	return 0, fmt.Errorf("%s is served, and no QEMU of its directory is found by it", vm.dir.Control())
}

// findProcess notes QEMU's process, as far as it is known: the child, or the recorded one.
// Where none was recorded, as by earlier versions and by a server that was killed within a
// start, it is who the kernel says listens on the control socket, if that is a QEMU of this
// directory. What QEMU says of its own pid, in its pid file too, is not believed: in a pid
// namespace of its own that is another one, and a QEMU that was taken over can say what it
// likes. Answered is whether QEMU has: then it listens.
func (vm *VM) findProcess(answered bool) {
	vm.mu.Lock()
	proc := vm.proc
	vm.mu.Unlock()
	if !proc.IsZero() {
		return
	}
	switch rec := vm.record(); {
	case vm.Child != nil:
		proc = vm.Child.Process
	case rec != nil && rec.Process != nil:
		if !rec.Process.Alive() {
			return
		}
		proc = *rec.Process
	default:
		peer, err := process.Peer(vm.conn.NetConn()) // who called listen(2), which QEMU did
		if answered && (err != nil || !vm.isOurs(peer.PID)) {
			// Or the server that bound the socket for it, and has ended, where the
			// connection was made before QEMU listened.
			peer, err = vm.listener()
		}
		if err != nil || !vm.isOurs(peer.PID) {
			return
		}
		proc = peer
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.proc = proc
}

// listener asks who listens on the control socket now. The connection for that stays in the
// queue until QEMU has lost the one it has, and there is room for two or three.
func (vm *VM) listener() (peer process.Process, err error) {
	err = vm.Ask(func(ctx context.Context) error {
		c, err := unixsock.Dial(ctx, vm.dir.Control())
		if err != nil {
			return err
		}
		defer c.Close()
		peer, err = process.Peer(c)
		return err
	})
	return peer, err
}

// isOurs tells whether a process is the QEMU of this directory, by its arguments.
func (vm *VM) isOurs(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		// Where there is no /proc there is nothing better than the kernel's word.
		_, err := os.Stat("/proc/self/cmdline")
		return err != nil
	}
	return bytes.Contains(b, []byte("\x00-pidfile\x00"+vm.dir.pidFile()+"\x00"))
}
