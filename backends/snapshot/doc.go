// Package snapshot is what taking and restoring snapshots has in common for all VMMs
// that are processes: the VM is kept from other commands, made to stand still and
// put back as it was, also when the caller or the server has gone; its disks are
// copied, and given back at a restore; a manifest, written last, tells what a whole
// snapshot consists of, and is checked before anything is touched.
//
// How a VMM writes and reads the state of a VM is the back end's own.
//
// The package imports packages hypervisor, disk, gate and stored, and internal/durable.
package snapshot
