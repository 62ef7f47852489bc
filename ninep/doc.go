// Package ninep serves a p9.Attacher over 9P: 9P2000.L, 9P2000.u and 9P2000,
// chosen by the client's Tversion, on any number of listeners.
//
// It differs from p9.Server in what a synthetic tree needs. A file that can
// block implements one of the interfaces of blocking.go, whose methods take a
// context; the server runs those apart, cancels the context on Tflush and
// hang-up, and holds no lock across them, so that a blocked request delays
// nobody. Everything else is answered by the goroutine that read the request.
//
// # Concurrency promised to files
//
// The plain methods of p9.File keep the guarantees that p9 documents: Walk,
// Open, GetAttr, ReadAt, WriteAt, Readdir, Readlink and FSync exclude every
// method that changes the tree (Create, Mkdir, Symlink, Link, Mknod, SetAttr,
// UnlinkAt, RenameAt, Renamed) on every connection of the Server. Open is
// called once per File. Close comes after every other call on that File has
// returned, and is the last. The context methods are exclusive of nothing but
// Close; reads of one fid come one at a time and in order, and so do writes.
//
// # Turns
//
// The goroutines that read requests take turns (turns.go), one user after the other, and
// so at most one less than Go has processors (GOMAXPROCS) works at a time. A program that
// does little else may give Go one more than there are cores.
//
// # Lock order
//
// Server.tree, then Server.mu, then session.mu, then output.mu; turns.mu is taken alone. A context
// method is never called with any of them held; a plain method is called with
// Server.tree alone, save Renamed, for which session.mu is held too.
//
// # Parts
//
// A conn reads messages, as package ninep/wire describes them, and a session runs
// them: the table ops (request.go) says what each does, the files ops_*.go have
// these functions, and async.go runs what can block. Fids hold nodes (node.go), which
// follow renames and removals. output.go writes the replies.
//
// Beside ninep/wire, ninep/dial, internal/printable and internal/unixsock the package imports the standard
// library and p9 (p9 and linux).
package ninep
