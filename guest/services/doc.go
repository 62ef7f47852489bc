// Package services is what the guest's agent serves on its vsock ports, for
// tests, demonstrations and small jobs. Every port may have any number of
// streams at once.
//
//	   7 echo     sends back what it gets
//	   9 discard  takes what it gets
//	  13 daytime  the guest's time on one line, and the end
//	  19 chargen  lines of the printable characters without end
//	1024 exec     a command or a shell, on a plain stream
//	1025 exec     programs with all that belongs to them: see package guest/exec
//
// The agent also serves the control port, 1026: see package guest/control.
//
// # Port 1024
//
// The first line is a command for /bin/sh; what follows on the stream is its
// standard input; its output and errors come back, and at the end a line with
// its exit status:
//
//	$ echo 'uname -s; false' | vmfs rdwr web/vsock/1024
//	Linux
//	status 1
//
// A line with a dash in front has no status line, so that only the command's
// output comes back:
//
//	$ echo '-tar -C /etc -cf - .' | vmfs rdwr web/vsock/1024 >etc.tar
//	$ (echo 'tar -C /tmp -xf -'; cat etc.tar) | vmfs rdwr web/vsock/1024
//	status 0
//
// An empty first line asks for an interactive shell, for somebody who types
// lines: it prompts, and leaves echo and line editing to the other side.
//
// The end of the stream is the end of the standard input, no more, as there is no
// telling a half-close from a hang-up; a command whose reader is gone is ended
// when it writes. The framed service tells them apart.
//
// The package imports golang.org/x/sys, guest/exec and guest/internal. Its
// programs run on Linux alone; the small services run anywhere.
package services
