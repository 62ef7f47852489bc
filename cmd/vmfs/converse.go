package main

import (
	"errors"
	"io"
	"path"
	"strings"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"

	"vmfs/vsock"
)

// A conversation is a stream to or from a guest, by VM/vsock/clone: with one open
// to read and another to write its two directions end apart.
type conversation struct {
	s           *session
	path        string // of its directory
	ctl, rd, wr *file
}

// vsockPort tells whether name is a port in a VM's vsock directory: the VM, and the
// verb by which a conversation gets the same stream.
func vsockPort(name string) (vm, verb string, ok bool) {
	names := splitPath(name)
	if len(names) < 3 || names[1] != "vsock" {
		return "", "", false
	}
	verb = "connect "
	port := names[2]
	if port == "listen" && len(names) == 4 {
		verb, port = "announce ", names[3]
	} else if len(names) != 3 {
		return "", "", false
	}
	if _, err := vsock.ParsePort(port); err != nil {
		return "", "", false
	}
	return names[0], verb + port, true
}

// converse gets a stream by a verb with a port. That of announce waits for the
// guest.
func (s *session) converse(vm, verb string) (_ *conversation, err error) {
	dir := path.Join(vm, "vsock")
	ctl, err := s.open(path.Join(dir, "clone"), p9.ReadWrite)
	if err != nil {
		return nil, lost(err)
	}
	c := &conversation{s: s, ctl: ctl}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	name, err := io.ReadAll(ctl)
	if err != nil {
		return nil, lost(err)
	}
	c.path = path.Join(dir, strings.TrimSpace(string(name)))
	if _, err := io.WriteString(ctl, verb); err != nil {
		return nil, s.explain(path.Join(vm, "ctl"), sentAs(verb), err)
	}
	if c.rd, err = s.open(path.Join(c.path, "data"), p9.ReadOnly); err == nil {
		c.wr, err = s.open(path.Join(c.path, "data"), p9.WriteOnly)
	}
	if err != nil {
		return nil, s.explain(path.Join(vm, "ctl"), sentAs(verb), err)
	}
	return c, nil
}

// sentAs is a verb as the VM's error file calls it.
func sentAs(verb string) string { return "vsock " + strings.TrimPrefix(verb, "connect ") }

// explainOpen is explain for the open of a port.
func (s *session) explainOpen(name string, err error) error {
	vm, verb, ok := vsockPort(name)
	if !ok {
		return err
	}
	if port, ok := strings.CutPrefix(verb, "announce "); ok {
		return s.explain(path.Join(vm, "ctl"), "vsock listen "+port, err)
	}
	return s.explain(path.Join(vm, "ctl"), sentAs(verb), err)
}

func (c *conversation) Read(p []byte) (int, error)  { return c.rd.Read(p) }
func (c *conversation) Write(p []byte) (int, error) { return c.wr.Write(p) }

// CloseWrite ends the guest's input.
func (c *conversation) CloseWrite() error {
	_, err := io.WriteString(c.ctl, "shutdown write")
	return err
}

// Close gives the stream up and wakes who reads it.
func (c *conversation) Close() error {
	var errs []error
	for _, f := range []*file{c.rd, c.wr, c.ctl} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// relay copies in to the stream, whose end it passes on, and the stream to out,
// until the guest ends its side. The goroutine that copies in may be left in its
// read of in.
func (c *conversation) relay(in io.Reader, out io.Writer) error {
	written := make(chan error, 1)
	go func() {
		err := copyChunks(c, in)
		if err == nil {
			err = c.CloseWrite()
		}
		written <- err
	}()
	read := make(chan error, 1)
	go func() { read <- c.rd.copyTo(out) }()
	for {
		select {
		case err := <-read:
			return err
		case err := <-written:
			// A guest that reads no more may still have something to say.
			if err != nil && !refusesInput(err) {
				return lost(err)
			}
			written = nil
		}
	}
}

// refusesInput tells whether an error is that of a guest that has closed its side,
// of which the reading end hears too.
func refusesInput(err error) bool {
	var errno linux.Errno
	return errors.As(err, &errno) && (errno == linux.EPIPE || errno == linux.ECONNRESET)
}
