package client

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"github.com/hugelgupf/p9/linux"
)

// An Error is what the server says of a request that failed. It names neither the
// operation nor the file, which the caller knows.
type Error struct {
	Errno linux.Errno
	// Text is the server's own words, where they could be had.
	Text string
}

func (e *Error) Error() string {
	switch {
	case e.Text != "":
		return e.Text
	case e.Errno == linux.EINTR: // this client did not ask for that
		return e.Errno.Error() + ": the server is ending, or somebody cancelled the command"
	}
	return e.Errno.Error()
}

// Unwrap makes the error its number, a linux.Errno.
func (e *Error) Unwrap() error { return e.Errno }

// Is makes the error fs.ErrNotExist, fs.ErrExist or fs.ErrPermission, by its number.
func (e *Error) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return e.Errno == linux.ENOENT
	case fs.ErrExist:
		return e.Errno == linux.EEXIST
	case fs.ErrPermission:
		return e.Errno == linux.EACCES || e.Errno == linux.EPERM
	}
	return false
}

// A DialError is that there is no server at Addr that takes this client. Err is an
// [*Error] where a 9P server answered and refused.
type DialError struct {
	Addr string
	Err  error
}

func (e *DialError) Error() string {
	var said *Error
	if errors.As(e.Err, &said) {
		return fmt.Sprintf("attach to %s: %v", e.Addr, e.Err)
	}
	return fmt.Sprintf("connect to %s: %v", e.Addr, e.Err)
}

func (e *DialError) Unwrap() error { return e.Err }

// rootCause strips an error of package net of the address, which the message has already.
func rootCause(err error) error {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return sys.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// failedCommand returns the error in text, the content of a VM's error file: a time,
// the command, a colon, and the error, which names the command itself. Sent is the file's
// name, or the command's, and what was written to it. It is false where text is of
// another command than that: somebody else's, or an earlier one.
func failedCommand(text, sent string) (string, bool) {
	if t, rest, ok := strings.Cut(text, " "); ok {
		if _, err := time.Parse(time.RFC3339, t); err == nil {
			text = rest
		}
	}
	file, _, _ := strings.Cut(sent, " ")
	commands := []string{file, "set"} // the latter is what changes a config
	for line := range strings.Lines(strings.TrimPrefix(sent, file)) {
		line = strings.TrimSpace(line)
		verb, _, _ := strings.Cut(line, " ")
		commands = append(commands, line, verb, file+" "+line)
	}
	longest := ""
	for _, c := range commands {
		if len(c) > len(longest) && strings.HasPrefix(text, c+": ") {
			longest = c
		}
	}
	if longest == "" {
		return "", false
	}
	return text[len(longest)+len(": "):], true
}
