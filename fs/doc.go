// Package fs is the served tree: the VMs of a machine.Host as directories of
// files, as a p9.Attacher.
//
// A directory has a kind (dir.go), which has a table with a row for each of its
// files (row.go): the root's is in root.go, a VM's in vm.go. A new file is a new row,
// with a method behind it. Each fid has a File of its own, which holds what the
// fid has read so far: text files generate their content when they are read at
// offset 0 and serve that to the end, stream files (package streams) deliver what
// comes. Everything reports length 0, since v9fs reads a file of a length that
// it cannot reach for ever.
//
// Reading a text file, walking and listing take the state that package machine
// keeps and never wait for a hypervisor. What can wait (the write of a command,
// the read of a stream) is a method that takes a context, in the form that a
// 9P server with cancellation looks for: OpenContext, ReadContext,
// WriteContext, FSyncContext, CloseContext, AbandonContext, MkdirContext,
// UnlinkAtContext, SetAttrContext.
//
// Errors of other packages become errnos in errno.go and nowhere else.
//
// The package imports ctl, streams, machine and what those import, the leaf vsock
// for its errors and port numbers, and p9.
package fs
