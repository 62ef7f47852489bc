// Package bench measures streams into a guest, whichever way they go: what is
// measured is the same for all of them, so that ratios mean something.
//
// The program in the guest (Serve, and command peer) sends, takes and echoes
// bytes on a few ports, of vsock and of TCP. All that is sent is a pattern, and
// what comes out at the other end is held against it: a figure is one of bytes
// that arrived.
//
// TestBenchVsock in cmd/vmfs runs it and prints the tables of docs/benchmarks.md.
package bench
