// Package unixhttp is a client of the small HTTP servers that VMMs have on their Unix sockets:
// JSON in both directions, connections that are kept, a context for every request, bounded
// answers, and files that go along as SCM_RIGHTS with a request's first byte, which net/http
// cannot send.
//
// A request whose context ends may be carried out all the same, if the server had begun to read it.
//
// The package imports the standard library and internal/unixsock.
package unixhttp
