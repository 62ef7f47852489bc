package chtest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"vmfs/backends/cloudhypervisor/api"
)

// Ready is the line that the guest prints on its serial port when it is up, and EchoPort the
// vsock port on which it echoes.
const (
	Ready    = "chtest guest ready"
	EchoPort = 7
)

// NoKernel is what is in a file that the VMM takes for no kernel, which it does not of another one.
const NoKernel = "this is no kernel"

// A guest is what there is of a guest: its serial port and its vsock device.
type guest struct {
	wg   sync.WaitGroup        // of its goroutines
	size func(id string) int64 // of a disk

	mu      sync.Mutex // guards all below
	serial  net.Listener
	file    *os.File // of a serial port that is a file
	conn    net.Conn // who has the serial port
	printed []byte   // what nobody has read
	vsock   net.Listener
	streams map[net.Conn]struct{}
	goes    chan struct{} // closed when a guest that stands still goes on; nil while it goes
}

// stand has the guest stand still, or go on.
func (g *guest) stand(still bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case still && g.goes == nil:
		g.goes = make(chan struct{})
	case !still && g.goes != nil:
		close(g.goes)
		g.goes = nil
	}
}

// awaitGoing waits while the guest stands still.
func (g *guest) awaitGoing() {
	g.mu.Lock()
	goes := g.goes
	g.mu.Unlock()
	if goes != nil {
		<-goes
	}
}

// openSerial makes what the serial port is connected to. It does nothing where that is there.
func (g *guest) openSerial(c api.Console) (err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.serial != nil || g.file != nil {
		return nil
	}
	switch c.Mode {
	case api.ConsoleFile:
		g.file, err = os.Create(c.File)
	case api.ConsoleSocket:
		if g.serial, err = net.Listen("unix", c.Socket); err == nil {
			l := g.serial
			g.wg.Go(func() { g.serve(l) })
		}
	}
	return err
}

// serve lets one after the other have the serial port.
func (g *guest) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		if g.conn != nil {
			_ = g.conn.Close() // the real one has one reader too, the last
		}
		g.conn = c
		_, _ = c.Write(g.printed)
		g.printed = nil
		g.mu.Unlock()
		g.wg.Go(func() { g.echo(c) })
	}
}

// echo is the guest's terminal.
func (g *guest) echo(c net.Conn) {
	var line []byte
	r := bufio.NewReader(c)
	for {
		ch, err := r.ReadByte()
		if err != nil {
			g.mu.Lock()
			if g.conn == c {
				g.conn = nil // what is printed from here on waits for the next
			}
			g.mu.Unlock()
			_ = c.Close()
			return
		}
		g.awaitGoing()
		if ch == '\r' {
			ch = '\n'
		}
		g.write([]byte{ch})
		if line = append(line, ch); ch == '\n' {
			g.obey(strings.TrimSpace(string(line)))
			line = nil
		}
	}
}

// obey does what a line says that was typed, if it is a command.
func (g *guest) obey(line string) {
	if id, ok := strings.CutPrefix(line, "size "); ok {
		g.print(fmt.Sprintf("%d bytes", g.size(id)))
	}
}

func (g *guest) print(line string) { g.write([]byte(line + "\r\n")) }

func (g *guest) write(b []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.file != nil:
		_, _ = g.file.Write(b)
	case g.conn != nil:
		_, _ = g.conn.Write(b)
	case g.serial != nil:
		g.printed = append(g.printed, b...)
	}
}

// boot makes the guest's devices.
func (g *guest) boot(v *api.Vsock) error {
	if v != nil {
		l, err := net.Listen("unix", v.Socket)
		if err != nil {
			return err
		}
		g.mu.Lock()
		g.vsock, g.streams = l, make(map[net.Conn]struct{})
		g.mu.Unlock()
		g.wg.Go(func() { g.accept(l) })
	}
	return nil
}

// accept is the vsock device.
func (g *guest) accept(l net.Listener) {
	for port := 1 << 30; ; port++ {
		c, err := l.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		if g.vsock != l {
			_ = c.Close()
			c = nil
		} else {
			g.streams[c] = struct{}{}
		}
		g.mu.Unlock()
		if c != nil {
			g.wg.Go(func() { g.stream(c, port) })
		}
	}
}

// stream is one connection to a port of the guest.
func (g *guest) stream(c net.Conn, hostPort int) {
	defer func() {
		_ = c.Close() // all that was read has been written, or cannot be
		g.mu.Lock()
		delete(g.streams, c)
		g.mu.Unlock()
	}()
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		return
	}
	port, ok := strings.CutPrefix(strings.TrimSpace(line), "CONNECT ")
	if n, err := strconv.Atoi(port); !ok || err != nil || n != EchoPort {
		return
	}
	if _, err := fmt.Fprintf(c, "OK %d\n", hostPort); err != nil {
		return
	}
	_, _ = io.Copy(c, r)
}

// later does what the guest does by itself.
func (g *guest) later(do func()) { g.wg.Go(do) }

// end ends all that there is of the guest. Its sockets go with it.
func (g *guest) end() {
	g.stand(false)
	g.closeSerial()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.vsock != nil {
		_ = g.vsock.Close() // nothing is written to a listener
		g.vsock = nil
	}
	for c := range g.streams {
		_ = c.Close() // its guest is gone
	}
}

func (g *guest) closeSerial() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.serial != nil {
		_ = g.serial.Close() // nothing is written to a listener
	}
	if g.conn != nil {
		_ = g.conn.Close() // what it did not take is lost, as with the real one
	}
	if g.file != nil {
		_ = g.file.Close() // nobody looks at whether writing succeeds
	}
	g.serial, g.conn, g.file, g.printed = nil, nil, nil, nil
}
