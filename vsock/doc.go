// Package vsock carries byte streams between the host and a guest over virtio
// sockets. It knows two ways to reach a guest's port:
//
//   - Kernel: the host's own AF_VSOCK sockets, which name a guest by its
//     context id (CID). They need a vhost-vsock device in the guest and the
//     vhost_vsock module in the host.
//   - Hybrid: a Unix socket served by the VMM or by a vhost-user device. The
//     client writes "CONNECT port\n" and reads "OK hostport\n"; a guest's own
//     connection to host port P arrives at the Unix socket named SOCKET_P.
//
// Both dial and listen, give connections with half-close, deadlines and a
// Close that wakes blocked readers, and have a Key under which connections can
// be pooled. An error names the socket or CID and the port, and says with
// errors.Is whether the guest refused (ErrRefused), nobody serves the device
// (ErrUnavailable) or time ran out (context.DeadlineExceeded).
//
// Of this module the package imports internal alone.
package vsock
