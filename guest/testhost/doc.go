// Package testhost runs one program on a KVM host made for it: a QEMU that emulates
// a CPU with AMD's SVM, Debian's ordinary kernel, and this machine's own files. What
// vmfs needs of a host is there: /dev/kvm, vhost-vsock, vhost-net, taps and bridges,
// v9fs, vfio with an IOMMU and a device to pass on, and two ordinary users.
//
// The root file system is the machine's, read-only over virtio-9p under an overlay in
// memory: programs, the work tree, Go and its caches are at the same paths, what is
// written there goes with the host, and nothing has to be installed or copied. /out
// is a directory of the machine's for what is to stay. /tmp and /run are new.
//
// The host's init (hostinit) says every few seconds on its serial line that it is
// alive, so that one that stands still (QEMU's emulation can lose a timer) is told
// apart from a program that takes its time: ErrStill. The program's run goes over a
// virtio-serial port in the protocol of guest/exec; at its end the host powers off.
//
// The command is guest/testhost/run, which `make host` and `go test -exec` use. The
// tests in guest/testhost/ring are what `make host-ring` runs there.
//
// The package imports guest's packages and internal/flock, and runs on Linux alone.
package testhost
