// Package fakeengine stands for Virtualization.framework where that is not: it makes the
// state transitions that the framework's documentation names, and no others ([Rows] has
// each with its page), and what is behind them is a guest of package sim.
//
// It is as awkward as the framework is said to be: what is done is said to be done before
// the state is there, and what is possible next is so a moment later still; a save needs
// a file that is not there; a restore wants the machine identifier, the MAC addresses and
// the devices that were saved; a balloon tells nothing.
//
// # The guest
//
// See package sim for what it says and understands on its console and on vsock. It is ready
// with the line [ReadyLine]. Its agent serves the control port, unless the kernel's
// arguments have the word [NoAgent]. What sim's panic command does the framework does not
// know of: the VM is running, and its guest stands still.
//
// # Faults
//
// Before each call the engine looks for a file named [FaultFile] of the call beside the
// socket of the VM's console. Empty, it makes the call hang for as long as it is there;
// otherwise the call fails with its text. So one process can break the engine of another.
//
// The package imports the standard library, package shim, package shimconfig, backends/sim,
// backends/hypervisor, guest/control and vsock.
package fakeengine
