package client

import (
	"context"
	"errors"
	"os"
	"path"
	"strconv"
	"strings"
)

// A Stream is a stream to or from a guest. Its two directions end apart: CloseWrite
// ends the guest's input, and what the guest says is read until it ends its side. Calls
// that are under way are ended by Close.
type Stream struct {
	c           *Client
	ctx         context.Context
	cancel      context.CancelFunc
	dir         string // of the conversation
	ctl, rd, wr *File
}

// Connect opens a stream to a port of a VM's guest.
func (c *Client) Connect(ctx context.Context, vm string, port uint32) (*Stream, error) {
	return c.converse(ctx, vm, "connect ", port)
}

// Accept waits for the guest to connect to a port of the host.
func (c *Client) Accept(ctx context.Context, vm string, port uint32) (*Stream, error) {
	return c.converse(ctx, vm, "announce ", port)
}

// Stream is Connect or Accept by the path of a port: VM/vsock/PORT or
// VM/vsock/listen/PORT. Ok is false for other paths.
func (c *Client) Stream(ctx context.Context, name string) (s *Stream, ok bool, err error) {
	vm, port, listen, ok := guestPort(name)
	if !ok {
		return nil, false, nil
	}
	n, _ := strconv.ParseUint(port, 10, 32)
	if listen {
		s, err = c.Accept(ctx, vm, uint32(n))
	} else {
		s, err = c.Connect(ctx, vm, uint32(n))
	}
	return s, true, err
}

// guestPort takes the path of a port in a VM's vsock directory apart.
func guestPort(name string) (vm, port string, listen, ok bool) {
	names := Split(name)
	switch n := len(names); {
	case n == 3 && names[1] == "vsock":
		port = names[2]
	case n == 4 && names[1] == "vsock" && names[2] == "listen":
		port, listen = names[3], true
	default:
		return "", "", false, false
	}
	n, err := strconv.ParseUint(port, 10, 32)
	// As the tree names them: no 0, no leading zeros, and not the port of any.
	if err != nil || n == 0 || n == 1<<32-1 || port != strconv.FormatUint(n, 10) {
		return "", "", false, false
	}
	return names[0], port, listen, true
}

// streamCommand returns what the VM's error file calls the opening of a port.
func streamCommand(name string) (string, bool) {
	_, port, listen, ok := guestPort(name)
	if listen {
		return "vsock listen " + port, ok
	}
	return "vsock " + port, ok
}

// converse gets a stream by a conversation (VM/vsock/clone): with one open to read and
// another to write.
func (c *Client) converse(ctx context.Context, vm, verb string, port uint32) (_ *Stream, err error) {
	dir := path.Join(vm, "vsock")
	number := strconv.FormatUint(uint64(port), 10)
	as := "vsock " + strings.Replace(strings.TrimPrefix(verb, "connect "), "announce", "listen", 1) + number
	ctl, err := c.Open(ctx, path.Join(dir, "clone"), os.O_RDWR)
	if err != nil {
		return nil, err
	}
	s := &Stream{c: c, ctl: ctl}
	s.ctx, s.cancel = context.WithCancel(c.conn.ctx)
	defer func() {
		if err != nil {
			s.clunk(ctx)
			err = c.explain(ctx, vm, as, err)
		}
	}()
	buf := make([]byte, 64)
	n, err := ctl.Read(ctx, buf)
	if err != nil {
		return nil, err
	}
	s.dir = path.Join(dir, strings.TrimSpace(string(buf[:n])))
	if _, err = ctl.Write(ctx, []byte(verb+number)); err != nil {
		return nil, err
	}
	if s.rd, err = c.Open(ctx, path.Join(s.dir, "data"), os.O_RDONLY); err == nil {
		s.wr, err = c.Open(ctx, path.Join(s.dir, "data"), os.O_WRONLY)
	}
	return s, err
}

// Dir is the stream's directory in the tree.
func (s *Stream) Dir() string { return s.dir }

func (s *Stream) Read(p []byte) (int, error)  { return s.rd.Read(s.ctx, p) }
func (s *Stream) Write(p []byte) (int, error) { return s.wr.Write(s.ctx, p) }

// CloseWrite ends the guest's input.
func (s *Stream) CloseWrite() error {
	_, err := s.ctl.Write(s.ctx, []byte("shutdown write"))
	return err
}

// Close gives the stream up and ends the calls that are under way.
func (s *Stream) Close() error { return s.clunk(s.c.conn.ctx) }

func (s *Stream) clunk(ctx context.Context) error {
	s.cancel()
	var errs []error
	for _, f := range []*File{s.rd, s.wr, s.ctl} {
		if f != nil {
			errs = append(errs, f.Clunk(ctx))
		}
	}
	return errors.Join(errs...)
}
