// Command testguest is what runs in the guests of the device's tests: a few
// services on vsock ports, and clients of the host on demand. It reaches the
// vsock through package vsock, so the tests with real guests are tests of its
// kernel side too.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"vmfs/vsock"
	"vmfs/vsock/vhostuser/internal/testguest/pattern"
)

var host = &vsock.Kernel{CID: 2}

// base keeps out of the way of the ports that the agent itself serves.
const base = 2000

// services are what the tests find on the ports.
var services = map[int]func(net.Conn){
	base + 7: func(c net.Conn) { _, _ = io.Copy(c, c) }, // echo
	base + 9: func(c net.Conn) { // discard, with few system calls
		for b := make([]byte, 256<<10); ; {
			if _, err := c.Read(b); err != nil {
				return
			}
		}
	},

	// Reads a line "SEED BYTES", sends as much of the pattern and closes.
	base + 19: func(c net.Conn) {
		var seed uint64
		var n int64
		if _, err := fmt.Sscan(line(c), &seed, &n); err == nil {
			_, _ = io.CopyN(c, pattern.New(seed), n)
		}
	},
	// Reads to the end and answers with the SHA-256.
	base + 20: func(c net.Conn) {
		h := sha256.New()
		_, _ = io.Copy(h, c)
		_, _ = io.WriteString(c, hex.EncodeToString(h.Sum(nil)))
	},
	// Reads a line and nothing more until another connection is made to the next.
	base + 21: func(c net.Conn) {
		line(c)
		<-goOn
		_, _ = io.Copy(io.Discard, c)
	},
	base + 22: func(c net.Conn) { once.Do(func() { close(goOn) }) },
	// Reads "PORT", connects to that port of the host and joins the two.
	base + 23: func(c net.Conn) {
		out, err := dial(line(c))
		if err != nil {
			_, _ = fmt.Fprintln(c, "error:", err)
			return
		}
		defer func() { _ = out.Close() }()
		_, _ = io.WriteString(c, "connected\n")
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(out, c); _ = out.CloseWrite() })
		_, _ = io.Copy(c, out)
		_ = c.(vsock.Conn).CloseWrite()
		wg.Wait()
	},
	// Sends zeros until the host has enough.
	base + 24: func(c net.Conn) {
		for b := make([]byte, 64<<10); ; {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	},
	// Closes at once.
	base + 25: func(net.Conn) {},
	// Reads "NAME", and says on the console how the stream ends.
	base + 26: func(c net.Conn) { watch(line(c), c) },
	// Reads "NAME PORT" and does the same with a connection to the host.
	base + 27: func(c net.Conn) {
		name, port, _ := strings.Cut(line(c), " ")
		out, err := dial(port)
		_, _ = fmt.Fprintln(c, err)
		if err == nil {
			go func() {
				watch(name, out)
				_ = out.Close()
			}()
		}
	},
}

var (
	once sync.Once
	goOn = make(chan struct{})
)

func watch(name string, c io.Reader) {
	n, err := io.Copy(io.Discard, c)
	fmt.Printf("testguest: %s ended after %d bytes: %v\n", name, n, err)
}

func dial(port string) (vsock.Conn, error) {
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	c, err := host.DialVsock(context.Background(), n)
	if err != nil {
		return nil, err
	}
	return c.(vsock.Conn), nil
}

func main() {
	var wg sync.WaitGroup
	for port, f := range services {
		l, err := host.ListenVsock(context.Background(), port)
		if err != nil {
			fmt.Println("testguest:", err)
			os.Exit(1)
		}
		wg.Go(func() { serve(l, f) })
	}
	fmt.Println("testguest: serving")
	wg.Wait()
}

func serve(l net.Listener, f func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Println("testguest:", err)
			return
		}
		go func() {
			f(c)
			_ = c.Close()
		}()
	}
}

// line reads one line and no byte more.
func line(c io.Reader) string {
	var s []byte
	var b [1]byte
	for {
		if _, err := io.ReadFull(c, b[:]); err != nil || b[0] == '\n' {
			return string(s)
		}
		s = append(s, b[0])
	}
}
