// Package vz is the back end that runs VMs with Virtualization.framework, of macOS.
//
// The framework runs a VM in the process that asks for it. That is a vz-shim (package
// shim), which is the program vmfs itself, started again, in a session of its own: it
// outlives the server as any VMM does. A [Starter] starts it; a [VM] is the handle on it,
// by its control socket (package shimapi). What the framework can do the shim says, and
// nobody else: this package has nothing of the framework, and so runs on any system with
// whatever engine the shim has. All that a VM has lies in the directory of its control
// socket:
//
//	vz.sock       the control socket
//	console.sock  the serial console, which the shim serves
//	vsock.sock    the hybrid vsock, where the configuration names no other path
//	vz.json       what the VM was started with (see record)
//	vz.config     what the shim was told, mode 0600, while it starts
//	vz.machine    the machine identifier, which stays from one run to the next
//	vz.efi        the variables of the EFI firmware, which do too
//	vz.log        the shim's words, where VMConfig.LogPath does not say another place
//	restore.json  there while a VM is restored
//
// The control socket is bound and listening before the shim is started, which inherits
// it: whenever the server dies in a start, either connecting is refused and there is no
// shim, or one answers there, which Resume tells to start its VM if nobody has yet.
//
// # Whose it is
//
// The process is the recorded one, or the one that the kernel says serves the control
// socket; the VM is the one whose name and UUID the shim tells.
//
// # Memory
//
// A VM boots with all the memory that it can ever have, and its balloon is told to leave
// it what it should have. The framework knows what the balloon was told and not what the
// guest gave: that its agent tells (package control), over vsock. Without an agent the
// size is not known.
//
// The package imports the standard library, the packages beside it that back ends have in
// common, internal, vsock, guest/control, and its own shimapi, shimconfig and shim.
//
// VM.mu is a leaf but for the queue of events.
package vz
