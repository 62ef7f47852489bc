// Package cloudhypervisor is the back end that runs VMs with Cloud Hypervisor.
//
// A [Starter] starts Cloud Hypervisor in a session of its own; a [VM] is the handle on it,
// over its API (package api). All that a VM has lies in the directory of its control
// socket:
//
//	ch.sock      the control socket: Cloud Hypervisor's API, HTTP
//	serial.sock  Cloud Hypervisor's serial port, for the process that holds it (package serial)
//	console.sock the serial console, which that process serves
//	output       the FIFO that Cloud Hypervisor's own words go through to that process
//	events.json  what Cloud Hypervisor tells of, record by record
//	ch.json      what the VM was started with (see record)
//	restore*     there while a VM is restored
//	ch.log       its output, where VMConfig.LogPath does not say another place
//
// The control socket is bound and listening before Cloud Hypervisor is started, and it
// inherits it and the open file of events: whenever the server dies in a start, either
// connecting is refused and there is no VMM, or one answers there. What it has not yet
// been told then, Resume tells it (see VM.make).
//
// # Whose it is
//
// The process is the one that the kernel says listens on the control socket, and the VM is
// the one whose UUID vm.info tells. What the VMM says of its own pid is believed nowhere.
//
// # States
//
// Cloud Hypervisor's states and the reasons that VMInfo gives are in states, its events in
// eventRules. It is started with --no-shutdown, so that it stays when its guest has powered
// off: a server that was away learns how the guest ended. The handle that learns it
// reports EventShutdown and ends the VMM. A guest that panics goes on to run as far as Cloud
// Hypervisor is concerned: the handle that learns of it pauses it.
//
// Events can be lost or cut: where they count the VMM is asked.
//
// The package imports the standard library, the packages beside it that back ends
// have in common, internal, vsock, and its own api.
//
// VM.mu is a leaf but for the queue of events.
package cloudhypervisor
