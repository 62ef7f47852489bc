// Package shim is the process that a VM of Virtualization.framework lives in, vz-shim,
// but for the framework itself: that is behind an [Engine], which the program gives it.
// So all of it but the engine runs, and is tested, on any system.
//
// A shim has one VM and outlives the server that started it. What it is asked it is asked
// on its control socket (package shimapi); it serves the console and the hybrid vsock
// protocol itself. All three sockets are there before the VM is.
//
// # What may hang
//
// No call of an engine is counted on to return. Each runs in a goroutine of its own, the
// ones that change the VM one at a time; who has asked is let go when he gives up, and the
// next waits for his turn. Info, stop, kill and quit wait for none of them.
//
// # How it ends
//
// A shim whose guest has ended stays, so that a server that was away learns how, and ends
// when it is told to. stop ends the VM and then the shim, in a bounded time. When the
// process ends, however it does, so does its VM.
//
// The package imports the standard library, package shimconfig, package shimapi,
// backends/serial, vsock, guest/control, fsnotify, and internal.
//
// Shim.mu is a leaf.
package shim
