// Package events is what happens to VMs, told: an event and its line of text, the
// feed that hands events to any number of subscribers, and the file that keeps a
// VM's last ones.
//
// Lock order: Feed.mu, then ring.mu.
//
// The package imports backends/hypervisor, internal/printable and, of machine, durable, owner and rc.
package events
