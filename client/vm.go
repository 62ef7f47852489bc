package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/hugelgupf/p9/linux"
)

// Command runs a command of a VM, a line of its ctl file: "start", "memory 1G wait 30s". It
// returns when that has taken effect, or with why not.
func (c *Client) Command(ctx context.Context, vm, command string) error {
	return c.WriteFile(ctx, vm+"/ctl", []byte(command+"\n"))
}

// ErrGone is the error of waiting for a VM that is removed meanwhile.
var ErrGone = errors.New("the VM is gone")

// Wait waits until the state of a VM is one of those given, or, without any, until it
// differs from what it is now, and returns it. The error at the end of ctx names the
// state that it has instead.
func (c *Client) Wait(ctx context.Context, vm string, states ...string) (string, error) {
	last := ""
	for {
		now, next, err := c.nextState(ctx, vm, states)
		if now != "" {
			last = now
		}
		var said *Error
		switch {
		case err != nil && ctx.Err() != nil && !errors.As(err, &said):
			if last == "" {
				return "", fmt.Errorf("timed out before the server told the state: %w", err)
			}
			return "", &WaitError{State: last, Err: err}
		case err != nil:
			return "", err
		case slices.Contains(states, now):
			return now, nil
		case len(states) == 0 || slices.Contains(states, next):
			return next, nil
		}
		last = next
	}
}

// A WaitError is a Wait that took too long.
type WaitError struct {
	State string // that the VM has
	Err   error  // the context's
}

func (e *WaitError) Error() string { return "timed out: the state is " + e.State }
func (e *WaitError) Unwrap() error { return e.Err }

// nextState returns the state of a VM, and, unless that is one of enough, the next
// one that differs.
func (c *Client) nextState(ctx context.Context, vm string, enough []string) (now, next string, err error) {
	// Opened before the state is read: no change falls between the two.
	w, err := c.Open(ctx, vm+"/wait", os.O_RDONLY)
	if err != nil {
		return "", "", err
	}
	defer w.Clunk(ctx)
	text, err := c.ReadFile(ctx, vm+"/state")
	if now = strings.TrimSpace(string(text)); err != nil || slices.Contains(enough, now) {
		return now, "", err
	}
	buf := make([]byte, 128)
	n, err := w.Read(ctx, buf)
	if errors.Is(err, io.EOF) {
		err = ErrGone
	}
	return now, strings.TrimSpace(string(buf[:n])), err
}

// explain gives the error of a command, known as sent, the VM's own words: in 9P2000.L
// an error is a number only. The text is in the VM's error file, but for what the VM was
// never told of: permission is refused before that.
func (c *Client) explain(ctx context.Context, vm, sent string, err error) error {
	var e *Error
	if !errors.As(err, &e) || e.Errno == linux.EACCES || e.Text != "" {
		return err
	}
	text, rerr := c.ReadFile(ctx, vm+"/error")
	if words, ok := failedCommand(strings.TrimSpace(string(text)), sent); rerr == nil && ok {
		return &Error{Errno: e.Errno, Text: words}
	}
	return err
}
