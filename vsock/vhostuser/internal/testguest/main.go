// Command testguest is what runs in the guests of the device's tests: a few
// services on vsock ports, and clients of the host on demand. It reaches the
// vsock through package vsock, so the tests with real guests are tests of its
// kernel side too.
package main

import (
	"bufio"
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
	"time"

	"vmfs/vsock"
	"vmfs/vsock/vhostuser/internal/testguest/pattern"
)

// The ports served. Tests name them.
const (
	echo    = 7  // sends back what comes
	discard = 9  // reads to the end
	source  = 19 // reads a line "SEED BYTES", sends as much of the pattern and closes
	sum     = 20 // reads to the end, answers with SHA-256 in hex
	mute    = 21 // never reads, never writes; ends when the host closes
	slow    = 22 // reads a byte, waits for a line, then sends back all that comes
	dial    = 23 // reads "PORT", connects to that port of the host and joins the two
	dialSum = 24 // reads "PORT SEED BYTES", sends the pattern there, answers with what came back
	hangUp  = 25 // closes at once
	ports   = 26 // reads "FIRST COUNT", connects to each port in turn, answers how many refused
)

func main() {
	host := &vsock.Kernel{CID: 2}
	var wg sync.WaitGroup
	for port, f := range map[int]func(net.Conn){
		echo: func(c net.Conn) { _, _ = io.Copy(c, c) },
		discard: func(c net.Conn) {
			_, _ = io.Copy(io.Discard, c)
		},
		source: func(c net.Conn) {
			var seed, n uint64
			if _, err := fmt.Sscan(line(c), &seed, &n); err == nil {
				_, _ = io.Copy(c, io.LimitReader(pattern.New(seed), int64(n)))
			}
		},
		sum: func(c net.Conn) {
			h := sha256.New()
			_, _ = io.Copy(h, c)
			_, _ = io.WriteString(c, hex.EncodeToString(h.Sum(nil)))
		},
		mute: func(c net.Conn) {
			for {
				// A write of nothing tells when the stream has ended.
				time.Sleep(100 * time.Millisecond)
				if _, err := c.Write([]byte{0}); err != nil {
					return
				}
			}
		},
		slow: func(c net.Conn) {
			var b [1]byte
			_, _ = io.ReadFull(c, b[:])
			time.Sleep(time.Second)
			_, _ = c.Write(b[:])
			_, _ = io.Copy(c, c)
		},
		hangUp: func(net.Conn) {},
		dial: func(c net.Conn) {
			port, _ := strconv.Atoi(line(c))
			out, err := host.DialVsock(context.Background(), port)
			if err != nil {
				_, _ = fmt.Fprintln(c, "error:", err)
				return
			}
			defer out.Close()
			_, _ = io.WriteString(c, "connected\n")
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = io.Copy(out, c); _ = out.(vsock.Conn).CloseWrite() })
			_, _ = io.Copy(c, out)
			_ = c.(vsock.Conn).CloseWrite()
			wg.Wait()
		},
		dialSum: func(c net.Conn) {
			var port int
			var seed, n uint64
			_, _ = fmt.Sscan(line(c), &port, &seed, &n)
			out, err := host.DialVsock(context.Background(), port)
			if err != nil {
				_, _ = fmt.Fprintln(c, "error:", err)
				return
			}
			defer out.Close()
			_, _ = io.Copy(out, io.LimitReader(pattern.New(seed), int64(n)))
			_ = out.(vsock.Conn).CloseWrite()
			_, _ = io.Copy(c, out)
		},
		ports: func(c net.Conn) {
			var first, count, refused int
			_, _ = fmt.Sscan(line(c), &first, &count)
			for p := first; p < first+count; p++ {
				out, err := host.DialVsock(context.Background(), p)
				if err != nil {
					refused++
					continue
				}
				_ = out.Close()
			}
			_, _ = fmt.Fprintln(c, refused)
		},
	} {
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
func line(c net.Conn) string {
	s, _ := bufio.NewReaderSize(oneByte{c}, 16).ReadString('\n')
	return strings.TrimSuffix(s, "\n")
}

type oneByte struct{ net.Conn }

func (o oneByte) Read(p []byte) (int, error) { return o.Conn.Read(p[:1]) }
