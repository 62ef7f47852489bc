// Package chtest is a Cloud Hypervisor without virtual machines, for tests of what the real one
// does seldom or never: a VMM that answers slowly or not at all, that dies at a given call, that
// loses or cuts events, that is too old; and for machines without KVM.
//
// It speaks the VMM's API over HTTP, with its state machine and its words, writes an event file,
// listens on the serial socket and on the vsock socket, and takes the real one's command line.
// [Start] runs one within a test; [Program] makes a program of the test binary itself, for who
// starts VMMs as processes.
//
// What it says is held to exchanges with the real v53.0 (testdata/exchanges.json), which
// `make record-cloud-hypervisor` makes anew: a test plays the same calls to it and compares, and
// another plays them to the real one wherever that is, so that the record is true. Both are also
// held to the published description where $VMFS_CLOUD_HYPERVISOR_SPEC names it.
//
// Its guest is a few lines: it prints [Ready] on the serial port and echoes what is typed there,
// tells a disk's size when "size ID" is, echoes what is sent to vsock port [EchoPort] and refuses
// other ports, powers off at the power button, and has the memory that it is told to have at
// once, unless it stands still.
//
// The package is for tests alone. It imports the standard library, testify,
// backends/cloudhypervisor/api and internal/unixsock.
package chtest
