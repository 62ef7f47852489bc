// Package streams is the life of what is read and written as it comes: streams to
// and from guests by vsock, conversations that share one, consoles, and readers
// of events. What serves them as files is not its business: it knows contexts,
// bytes and errors.
//
// A [Guests] holds the vsock streams of a host's guests, its conversations, and
// the listeners that several readers share. It ends them when their guest does,
// and all of them with Close.
//
// Lock order: Conversation.mu before Conn.mu; Guests.mu is taken alone.
//
// The package imports machine and what that imports, internal/wait, and the leaf
// vsock for its errors and port numbers.
package streams
