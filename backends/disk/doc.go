// Package disk is disk images as files: making and growing them, copying and summing
// them with their holes, what a snapshot keeps of them, and giving them other content
// so that it can be taken back. It knows no hypervisor.
//
// A raw image is made and grown here. For a qcow2 that is qemu-img's, a program that is
// looked for in PATH; of such an image its header is read here, for its size and for the
// files that are below it.
//
// Whoever calls it makes sure that nobody writes the images meanwhile. Every call
// that reads or writes content ends soon after its context does.
//
// The package imports the standard library, package hypervisor for its errors and
// what a disk is, internal/durable, internal/regular, and golang.org/x/sys.
package disk
