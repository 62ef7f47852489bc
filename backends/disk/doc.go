// Package disk is disk images as files: copying and summing them with their holes,
// what a snapshot keeps of them, and giving them other content so that it can be
// taken back. It knows no hypervisor.
//
// Whoever calls it makes sure that nobody writes the images meanwhile. Every call
// that reads or writes content ends soon after its context does.
//
// The package imports the standard library, package hypervisor for its errors and
// what a disk is, internal/durable, and golang.org/x/sys.
package disk
