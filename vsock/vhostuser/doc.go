// Package vhostuser is a virtio-vsock device for QEMU that needs no kernel
// module: it speaks the vhost-user protocol to QEMU's vhost-user-vsock-pci and
// the hybrid vsock protocol (see package vsock) to the host's processes. It
// runs as a process of its own, one for each VM, and ends with its VM.
//
// # The process
//
// One goroutine does all the work, woken by epoll: messages from QEMU, kicks
// from the guest, and the host's sockets. So there are no locks, and the state
// seen by a message is that of a moment between two packets. Bytes go from the
// host's socket into the guest's buffers by readv(2), and from the guest's
// buffers into the host's socket by writev(2), without a copy of our own.
//
// # Flow control
//
// To the guest: a host's socket is read only when the guest has room for the
// bytes (its credit) and a buffer on the ring, so a guest that stops reading
// stops its host's writer, and nobody else. From the guest: what the host's
// socket does not take at once is kept in pages of an arena of fixed size, and
// each stream's credit is what may come to be kept for it. Streams take turns: to
// the guest by a list, from the guest as its writers do, of which one that would
// go on for long is made to wait for the others (see floor).
//
// # Trust
//
// The guest can put anything into its memory, its rings and its packets. What
// it can break is its own vsock: a broken ring ends all its streams until the
// driver starts anew; a broken packet ends its stream. QEMU is trusted as far
// as the memory it hands over, not as far as well-formed messages. Whoever may
// open the socket on the host may use the guest's ports.
//
// # Restart
//
// The table of connections is in a small file, and the rings' position in the
// guest's memory. A new process in the place of one that died resets the
// streams that were lost and goes on; QEMU must be told to stop and cont.
//
// The device works on Linux. Elsewhere the package has its configuration and
// the functions that talk to a device, and Run says that it cannot.
package vhostuser
