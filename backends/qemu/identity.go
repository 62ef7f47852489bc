package qemu

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/digitalocean/go-qemu/qmp/raw"

	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
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

// pid finds QEMU's process: the child, or who the kernel says listens on the
// control socket, or who the pid file says. The latter two are believed only of a
// process that is a QEMU with this very pid file.
func (vm *VM) pid() (int, error) {
	if vm.Child != nil {
		return vm.Child.PID, nil
	}
	peer, _ := process.Peer(vm.conn.NetConn()) // who called listen(2), which QEMU did; none where that is not known
	candidates := []int{peer.PID}
	if b, err := os.ReadFile(vm.dir.pidFile()); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			candidates = append(candidates, pid)
		}
	}
	for _, pid := range candidates {
		if pid > 0 && vm.isOurs(pid) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("QEMU serves %s, but its process is not found by that socket, nor by %s", vm.dir.Control(), vm.dir.pidFile())
}

// isOurs tells whether a process is the QEMU of this directory, by its arguments.
func (vm *VM) isOurs(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		// Where there is no /proc there is nothing better than the pid file.
		_, err := os.Stat("/proc/self/cmdline")
		return err != nil
	}
	return bytes.Contains(b, []byte("\x00-pidfile\x00"+vm.dir.pidFile()+"\x00"))
}
