// Package console is the serial console of a VM: the file that its VMM writes all
// that the guest prints to, readers of that file, and the connection by which the
// guest is typed to (docs/decisions/004).
//
// Lock order: Log.mu, then the Notifier's. Input.mu is taken alone.
//
// The package imports backends/hypervisor, internal/wait, machine/durable and
// fsnotify.
package console
