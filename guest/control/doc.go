// Package control is the guest agent's control port, both sides of it: what the host
// asks of a guest and sets there where no device does, on vsock port 1026. Package
// agent serves it; a back end whose hypervisor does not know what its guest has, or
// whose guest's clock stands still while the host sleeps, is a client.
//
//	c, err := control.Dial(ctx, dialer)
//	m, err := c.Memory(ctx)              // m.Actual is what the guest has
//	step, err := c.SetClock(ctx, time.Now())
//
// # Protocol
//
// Lines of text, so that it can be used by hand; docs/guest-control.md is its page:
//
//	$ echo memory | vmfs rdwr web/vsock/1026
//	ok actual=536870912 available=481296384
//
// A request is a word and keys with values; it has one line as its answer, in the order
// of the requests: "ok" with keys and values, or "error", a word that says what kind
// and text for people. A stream may carry any number of requests, one after the other,
// and a guest any number of streams. No line is longer than [MaxLine].
//
//	hello            what the agent understands: version=1 requests=hello,memory,clock
//	memory           the guest's memory in bytes: actual, available
//	clock            the guest's time: unix=SECONDS.NANOSECONDS
//	clock set=TIME   sets it: unix, and step, by how many seconds it was changed
//
// A client ignores keys of an answer that it does not know, and asks what there is with
// hello; an agent refuses requests and keys that it does not know, so that nobody
// believes done what was not. Both may therefore gain requests and keys at any time; the
// version changes when one of those that there are changes its meaning.
//
// The package imports the standard library alone.
package control
