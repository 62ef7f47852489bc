// Package client talks to a vmfs server, or any other server of 9P2000.L: it
// dials, walks, reads, writes and waits.
//
// Every call that can block takes a context. When that ends, the request is
// flushed (Tflush), so that the server cancels what it did for it, and the call
// returns the context's error; where the answer came first, the call returns that.
// What was asked of a VM has then been done or not, but is no longer under way, unless
// the server did not answer the flush within two seconds.
//
// A failure that the server tells is an [*Error]: its number, and where the VM has
// said why, the VM's own words. Paths are relative to the root of the tree:
// "web/ctl" and "/web/ctl" are the same file.
//
// Another module uses it by a replace directive, since vmfs is built from a checkout:
//
//	go mod edit -require vmfs@v0.0.0 -replace vmfs=/path/to/vmfs
//	go mod tidy # once it is imported
//
// It imports ninep/wire and ninep/dial, what the messages and addresses are, a way to wait, and
// nothing of the server.
package client
