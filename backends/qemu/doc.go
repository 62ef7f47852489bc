// Package qemu is the back end that runs VMs with QEMU.
//
// A [Starter] starts QEMU in a session of its own; a [VM] is the handle on it,
// over QMP (package qmp). All that a VM has lies in the directory of its control
// socket:
//
//	qmp.sock      the control socket, for this package alone: one client at a time
//	monitor.sock  a second QMP monitor, for people and tools
//	console.sock  the serial console, which a process beside QEMU serves (package serial)
//	serial.sock   QEMU's end of the serial port, for that process
//	output        the FIFO that QEMU's own words go through to it
//	vhost.sock    where QEMU listens for a vsock device in user space, if there is one
//	qemu.pid      what QEMU says of its pid, which nothing believes
//	qemu.json     what the VM was started with (see record)
//	restore.json  the disks that a restore under way has changed (see disk.Swap)
//	qemu.log      QEMU's output, where VMConfig.LogPath does not say another place
//
// The sockets are bound and listening before QEMU is started, and it inherits
// them: whenever the server dies in a start, either connecting to qmp.sock is
// refused and there is no QEMU, or a QEMU answers there sooner or later.
//
// The second monitor speaks QMP as the first does: tools want it, and for people
// `human-monitor-command` in it is all of the readline monitor.
//
// # States
//
// The states of QEMU and the reasons that VMInfo gives are in runStates, its
// events in eventRules; docs/qemu.md has both as tables.
//
// QEMU is started so that it stays when its guest has powered off: a server that
// was away learns how the guest ended. The handle that learns it reports
// EventShutdown and tells QEMU to quit.
//
// # Memory
//
// The guest boots with VMConfig.MemoryBytes. A target above it is plugged by
// virtio-mem in steps of 2 MiB, a target below it is taken away by the balloon in
// pages of 4 KiB. Targets are rounded to the nearest step. QEMU keeps a target over
// a reset of the guest.
//
// The package imports the standard library, the packages beside it that back ends
// have in common, internal, vsock, its own qmp and vsockdev, go-qemu for the types, renameio, and golang.org/x/sys.
//
// VM.mu is a leaf but for the queue of events.
package qemu
