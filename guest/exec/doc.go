// Package exec is the client side, and the protocol, of the guest agent's exec
// service on vsock port 1025: a program run in the guest with its own standard
// input, output and error, signals, an exit status, and a terminal if wanted.
//
// The plain service on port 1024 is for streams of bytes and needs no client;
// package services describes it.
//
// # Protocol
//
// Both sides send frames: one byte of type, four of length (big endian, at most
// MaxPayload), the payload. The client begins with one start frame.
//
//	client  C  start: a JSON object, see Start
//	        I  bytes for the standard input
//	        E  end of the standard input
//	        W  the terminal's size: rows and columns, 16 bits each, big endian
//	        S  a signal for the process group: one byte, its number
//	guest   O  bytes of the standard output (with a terminal, of all output)
//	        R  bytes of the standard error
//	        A  so many bytes of input were taken: 32 bits, big endian
//	        F  the program could not be started: text for people; X follows
//	        X  the end: one byte, the exit status, 128+N for signal N; the last frame
//
// The client may have at most Window bytes of input unacknowledged. So a program
// that does not read its input holds up neither signals nor the notice that the
// client is gone: if the stream ends before the program does, the guest sends
// its process group SIGHUP and, two seconds later, SIGKILL.
//
// Output is only held back by the stream itself. Once the program has ended its
// output is over too when its children, who may hold it open, were silent for a
// short time.
//
// The package imports the standard library and internal/printable.
package exec
