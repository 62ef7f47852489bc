// Package qmp talks the QEMU Machine Protocol over one Unix socket.
//
// A [Conn] is one monitor. Commands carry ids, so that any number may be under
// way and a reply that comes after its caller has given up is dropped instead
// of being taken for the next one's. Every call takes a context and returns
// soon after it ends, also while QEMU hangs; when QEMU goes on, so does the
// connection. Lines may be of any length up to [MaxLine]. Events are queued for each
// [Subscription] and never hold up the connection, whatever the subscribers do.
//
// Command and event types are those of github.com/digitalocean/go-qemu/qmp, and
// [Conn.Monitor] makes a go-qemu Monitor of a connection, with which the typed
// calls of go-qemu's qmp/raw can be used.
//
// The package imports the standard library, go-qemu, and internal/queue and unixsock.
//
// Conn.mu is a leaf but for the subscriptions' queues.
package qmp
