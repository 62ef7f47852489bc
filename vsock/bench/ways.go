package bench

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// forwardPatience bounds a stream through a forwarded port: who forwards hundreds of
// them may lose some.
const forwardPatience = time.Minute

// TCP is the way to forwarded ports: by the guest's port.
type TCP map[int]string

// Open connects.
func (w TCP) Open(port int) (io.ReadWriteCloser, error) { return w.Duplex(port) }

// Duplex connects.
func (w TCP) Duplex(port int) (Stream, error) {
	c, err := net.Dial("tcp", w[port])
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), c.SetDeadline(time.Now().Add(forwardPatience))
}

// Hybrid is the way through the socket of a device.
type Hybrid struct {
	Dial func() (net.Conn, error)
}

// Open connects and asks for the port.
func (w Hybrid) Open(port int) (io.ReadWriteCloser, error) { return w.Duplex(port) }

// Duplex connects and asks for the port.
func (w Hybrid) Duplex(port int) (Stream, error) {
	c, err := w.Dial()
	if err != nil {
		return nil, err
	}
	// So small a buffer is passed by in reads of more.
	s := buffered{Stream: c.(Stream), r: bufio.NewReaderSize(c, 16)}
	_, err = fmt.Fprintf(c, "CONNECT %d\n", port)
	if err == nil {
		var line string
		if line, err = s.r.ReadString('\n'); err == nil && !strings.HasPrefix(line, "OK ") {
			err = fmt.Errorf("answer %q", line)
		}
	}
	if err != nil {
		_ = c.Close() // of no use
		return nil, fmt.Errorf("port %d: %w", port, err)
	}
	return s, nil
}

// buffered is a stream some of whose bytes were read already.
type buffered struct {
	Stream
	r *bufio.Reader
}

func (s buffered) Read(p []byte) (int, error) { return s.r.Read(p) }

// Files is the way through a mounted tree: a VM's directory.
type Files struct {
	Dir string
}

// Open opens the port's file.
func (w Files) Open(port int) (io.ReadWriteCloser, error) {
	return os.OpenFile(filepath.Join(w.Dir, "vsock", strconv.Itoa(port)), os.O_RDWR, 0)
}

// Duplex makes a conversation.
func (w Files) Duplex(port int) (_ Stream, err error) {
	c := &fileStream{}
	defer func() {
		if err != nil {
			_ = c.Close() // of no use
		}
	}()
	dir := filepath.Join(w.Dir, "vsock")
	if c.ctl, err = os.OpenFile(filepath.Join(dir, "clone"), os.O_RDWR, 0); err != nil {
		return nil, err
	}
	// Linux 6.12 takes clone for as long as what another stream wrote to it, until
	// it is asked.
	if _, err = c.ctl.Stat(); err != nil {
		return nil, err
	}
	name := make([]byte, 32)
	n, err := c.ctl.Read(name)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(c.ctl, "connect %d", port); err != nil {
		return nil, err
	}
	data := filepath.Join(dir, strings.TrimSpace(string(name[:n])), "data")
	if c.rd, err = os.Open(data); err != nil {
		return nil, err
	}
	c.wr, err = os.OpenFile(data, os.O_WRONLY, 0)
	return c, err
}

type fileStream struct{ ctl, rd, wr *os.File }

func (c *fileStream) Read(p []byte) (int, error)  { return c.rd.Read(p) }
func (c *fileStream) Write(p []byte) (int, error) { return c.wr.Write(p) }

// CloseWrite ends the guest's input.
func (c *fileStream) CloseWrite() error {
	_, err := c.ctl.WriteString("shutdown write")
	return err
}

// Close gives the stream up.
func (c *fileStream) Close() error {
	var errs []error
	for _, f := range []*os.File{c.rd, c.wr, c.ctl} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
