package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// The ports of the services.
const (
	// PortSource reads a length of 8 bytes and sends as much of the pattern.
	PortSource = 5001
	// PortSink reads to the end and answers with the number of bytes, of 8
	// bytes too. PortCheck does the same with the number of those that were
	// the pattern's.
	PortSink  = 5002
	PortCheck = 5003
	// PortEcho sends back what comes.
	PortEcho = 5007
	// PortHello sends a byte and closes.
	PortHello = 5013
)

// A Listen listens on a port.
type Listen func(port int) (net.Listener, error)

// Serve listens on all ports and serves what comes, until the program ends. It
// returns once everything listens.
func Serve(listen Listen) error {
	for port, h := range map[int]func(net.Conn) error{
		PortSource: source,
		PortSink:   func(c net.Conn) error { return sink(c, false) },
		PortCheck:  func(c net.Conn) error { return sink(c, true) },
		PortEcho:   echo,
		PortHello:  func(c net.Conn) error { _, err := c.Write([]byte{'.'}); return err },
	} {
		ln, err := listen(port)
		if err != nil {
			return fmt.Errorf("port %d: %w", port, err)
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return // the program ends
				}
				go func() {
					_ = h(c) // the other end sees what is missing
					_ = c.Close()
				}()
			}
		}()
	}
	return nil
}

func source(c net.Conn) error {
	n, err := readCount(c)
	if err != nil {
		return err
	}
	if err := send(c, n); err != nil {
		return err
	}
	if hc, ok := c.(interface{ CloseWrite() error }); ok {
		_ = hc.CloseWrite() // what goes wrong the reader sees
	}
	_, err = io.Copy(io.Discard, c) // until the other end has all of it
	return err
}

func sink(c net.Conn, check bool) error {
	buf := make([]byte, 64<<10) // hundreds of them fit into a small guest
	var n, good int64
	for {
		m, err := c.Read(buf)
		if !check || good == n && matches(n, buf[:m]) {
			good += int64(m)
		}
		n += int64(m)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	return writeCount(c, good)
}

// echo takes no more than a page at a time: it is for round trips.
func echo(c net.Conn) error {
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return err
		}
	}
}

// send writes n bytes of the pattern.
func send(w io.Writer, n int64) error {
	for off := int64(0); off < n; {
		m, err := w.Write(at(off, int(min(n-off, chunk))))
		off += int64(m)
		if err != nil {
			return err
		}
	}
	return nil
}

func readCount(r io.Reader) (int64, error) {
	var b [8]byte
	_, err := io.ReadFull(r, b[:])
	return int64(binary.LittleEndian.Uint64(b[:])), err
}

func writeCount(w io.Writer, n int64) error {
	_, err := w.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
	return err
}
