// Package fs is the served tree: the VMs of a machine.Host as directories of
// files, as a p9.Attacher.
//
// The files of a VM directory are one table (table.go); the files of the root
// are another (root.go). Each fid has a File of its own, which holds what the
// fid has read so far: text files generate their content when they are read at
// offset 0 and serve that to the end, stream files deliver records as they
// come. Everything reports length 0, since v9fs reads a file of a length that
// it cannot reach for ever.
//
// Reading a text file, walking and listing take the state that package machine
// keeps and never wait for a hypervisor. What can wait (the write of a command,
// the read of a stream) is a method that takes a context, in the form that a
// 9P server with cancellation looks for: OpenContext, ReadContext,
// WriteContext, MkdirContext, UnlinkAtContext, SetAttrContext.
//
// Errors become errnos in errno.go and nowhere else.
//
// Streams to and from guests (vsock*.go) are the one thing that the tree itself
// holds: which there are of a VM, its conversations, and the listeners that
// several opens share. Tree.Close ends them and what they have running.
//
// Lock order: conversation.mu before vsockStream.mu; vsocks.mu is taken alone.
//
// The package imports ctl, machine and what those import, the leaf vsock for its
// errors and port numbers, and p9.
package fs
