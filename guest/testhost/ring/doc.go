// Package ring holds tests of vmfs on a host as users have it: KVM, the kernel's vhost,
// its v9fs on the server's Unix socket, bridges. They run in a test host:
//
//	make host-ring
//
// and elsewhere are skipped. The package itself is empty.
package ring
