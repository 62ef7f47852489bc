// Package shimapi is how a server and a vz-shim talk: the messages on the shim's control
// socket, and the client's end of it. docs/vz-shim.md is the protocol's page.
//
// # The protocol
//
// Either end writes JSON objects, one a line, of at most [MaxLine] bytes. A client sends
// requests, each with an id that is greater than the one before; the shim answers each
// once, in the order in which they are done. A line that is no request of this form, an id
// that is not greater, or a first request other than hello is answered with
// [CodeProtocol], and the shim hangs up: nothing after it can be trusted to mean what it
// says. A method or a parameter that is not there is [CodeUnknown], and no more than that.
//
// hello names the versions that the client speaks, and the answer the greatest that both
// do. So a server that was replaced talks to the shims that its predecessor started, and
// is told so where it cannot.
//
// After events the shim also sends what happens to its VM, from the number on that the
// client names: a server that comes back misses nothing. Requests that a client has not
// cancelled are gone through with when it hangs up.
//
// The package imports the standard library, package shimconfig, and internal.
package shimapi
