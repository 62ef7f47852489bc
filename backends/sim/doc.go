// Package sim is a hypervisor back end that simulates its VMs in the server's
// own process. It needs nothing installed, does the same thing every time, and
// fails on demand: it is what vmfs is tried out and tested with.
//
// # Where the VMs live
//
// There is no VMM process and no socket in the file system. A [World] holds the
// VMs by the socket path that they were started with, and a client factory finds
// them there: two servers in one test process that share a World see the same
// VMs one after the other, as two runs of a server see the same QEMU. A VM ends
// with the process that its World is in; a server started after that is told
// that it is not running, as of any VMM that died.
//
// The pid of a simulated VM is 0, and its handle is a hypervisor.Killer. The
// program that GetBinaryPath names is the server's own.
//
// # The guest
//
// The guest prints a few lines, is ready after the boot time with the line
// [ReadyLine], and then has a prompt on the serial console with the commands
// help, mem, disk, echo, note, dial, poweroff, reboot and panic. `note TEXT` keeps a text
// in the guest's memory and `note` prints it: it is in snapshots, and lost by a
// reset. `disk N` prints the bytes of a disk. The guest answers the power button after the power-off time. It follows
// memory targets in steps of 2 MiB counted from the base size, at once unless a
// fault says otherwise, and keeps at least 16 MiB (or all it started with, if
// that is less). It tells of an NMI by the line [NMILine]. On vsock it serves echo (7), discard (9), daytime (13) and
// chargen (19), and refuses every other port. `dial PORT TEXT` on its console
// connects to a port of the host, if somebody listens there, sends the text as a
// line and then echoes.
//
// A paused or hung VM does nothing of that: what it was about to do, it does
// when it goes on. Typed input and vsock data wait as well.
//
// # Settings
//
// Keys of VMConfig.Extras; one with the prefix "sim." that is not here is
// refused:
//
//	sim.boot-time=DURATION      from the start to the ready line
//	sim.poweroff-time=DURATION  from the power button to the end of the guest
//	sim.without=WORD[,WORD…]    lacks pause, snapshot, memory or vsock
//	sim.linger=yes|no           the VMM stays when the guest has ended, in state
//	                            shutdown, until it is stopped
//	sim.fault=FAULT[,FAULT…]    faults from the start on; see below
//
// # Faults
//
//	hang[@VERB]          VERB blocks until its context ends, the fault is cleared
//	                     or the VMM ends. Without a VERB the whole VMM hangs as a
//	                     stopped process does: every verb but kill and connect
//	                     blocks, the guest stands still, and time goes by.
//	crash@VERB           the VMM is gone as soon as VERB is called
//	crash[:DELAY]        the VMM is gone DELAY after the start or the injection
//	refuse[@VERB][:TEXT] VERB, or every verb, fails with the error TEXT
//	slow-resize:N        the guest follows memory targets at N bytes a second
//	no-resize            the guest does not follow memory targets
//	no-poweroff          the guest does not listen to the power button
//	panic[:DELAY]        the guest panics, DELAY after the start or injection
//	io-error[:DELAY]     a disk of the guest fails, as above
//	start-fail[:TEXT]    StartVM and RestoreVM fail, and the VMM says TEXT
//	start-hang           StartVM and RestoreVM block until their context ends
//	slow-start:DURATION  StartVM and RestoreVM take that long
//
// The verbs are pause, resume, poweroff (DeleteVM), stop (Shutdown), info,
// snapshot, memory (both ways of resizing), reset, nmi, disk (GrowDisk), kill, console, identify,
// connect (making a handle) and vsock (dialing). N takes K, M, G and T, powers of
// 1024. Since TEXT ends at a comma, a text with one has to come from Go: see
// [Fault], [VM.Inject] and [VM.Clear], which change the faults at run time.
//
// # Reasons
//
// VMInfo.Reason and Event.Reason are guest-panicked and io-error of a paused VM,
// guest-shutdown (by the power button or the command) and host-quit (by
// Shutdown) of one that ended, and guest-reset and host-reset of reset events.
// After a panic Resume is refused as busy until a Reset. A reset leaves a paused
// VM paused.
//
// # Time
//
// All delays are timers of package time, so that a test in a testing/synctest
// bubble sees them pass at once and in order. With the zero [Config] the guest
// boots and powers off within the call that asks for it. An idle VM has no
// goroutine.
//
// The package imports packages hypervisor, disk, stored, and internal, and the standard library.
package sim
