// Package wire has the messages of 9P2000, 9P2000.u and 9P2000.L, and how they
// are written and read.
//
// Each message is described once, by the fields of its request and of its reply
// (messages.go), and a Codec follows the description in either direction: so a
// server and a client cannot differ. All messages share one struct, Msg, which can be
// used again and again without allocating.
//
// It is a leaf: it imports the standard library, and of p9 the types that the
// methods of p9.File have.
package wire
