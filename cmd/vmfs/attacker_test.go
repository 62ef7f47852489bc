package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"vmfs/ninep/dial"
	"vmfs/ninep/wire"
)

// An attacker is a connection of a client that means harm: it sends what it likes, and
// many messages before it reads what came of them.
type attacker struct {
	net.Conn
	codec wire.Codec
	in    *bufio.Reader
	out   []byte
	fids  uint32
	last  wire.Type // of the last reply
}

// attackFrom connects and attaches fid 0: on TCP from the last-th address of loopback, if
// that is not 0.
func attackFrom(addr string, last int, msize uint32) (*attacker, error) {
	a, err := dial.Parse(addr)
	if err != nil {
		return nil, err
	}
	network, target, d := "unix", a.Host, net.Dialer{}
	if a.Net == "tcp" {
		network, target = "tcp", net.JoinHostPort(a.Host, a.Port)
		if last != 0 {
			d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(last))}
		}
	}
	conn, err := d.Dial(network, target)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute)) // it fails only when closed
	c := &attacker{Conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}
	c.codec.Dialect = wire.Linux
	c.add(wire.Tversion, wire.Msg{Tag: wire.NoTag, Count: msize, Name: "9P2000.L"})
	if _, err = c.reply(); err == nil {
		c.add(wire.Tattach, wire.Msg{Fid: 0, Fid2: wire.NoFid, UID: wire.NoUser})
		_, err = c.reply()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// add makes a message, to be sent with the others.
func (c *attacker) add(t wire.Type, m wire.Msg) { c.out = c.codec.Append(c.out, t, &m) }

func (c *attacker) flush() error {
	_, err := c.Write(c.out)
	c.out = c.out[:0]
	return err
}

// reply sends what there is and takes the next reply, whose errno it gives.
func (c *attacker) reply() (errno uint32, err error) {
	if len(c.out) > 0 {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	head, err := c.in.Peek(wire.HeaderSize)
	if err != nil {
		return 0, err
	}
	frame := make([]byte, binary.LittleEndian.Uint32(head))
	if _, err := io.ReadFull(c.in, frame); err != nil {
		return 0, err
	}
	var m wire.Msg
	if err := c.codec.Decode(frame, &m); err != nil {
		return 0, err
	}
	c.last = m.Type
	return m.Errno, nil
}

// open has a file opened by a fid of its own.
func (c *attacker) open(names ...string) {
	c.fids++
	c.add(wire.Twalk, wire.Msg{Fid: 0, Fid2: c.fids, Names: names})
	c.add(wire.Tlopen, wire.Msg{Tag: uint16(c.fids), Fid: c.fids}) // which can wait
}

// opens has a file opened n times, and gives how many of them are.
func (c *attacker) opens(n int, names ...string) (opened int, err error) {
	const atOnce = 500
	for ; n > 0; n -= min(n, atOnce) {
		for range min(n, atOnce) {
			c.open(names...)
		}
		for range 2 * min(n, atOnce) {
			if _, err := c.reply(); err != nil {
				return opened, err
			}
			if c.last == wire.Tlopen+1 {
				opened++
			}
		}
	}
	return opened, nil
}

// An attack is what clients do to a server at addr, as fast as they can, once and then for
// as long as again says. At its height it calls so.
type attack struct {
	name, does string
	run        func(addr string, again func() bool, height func(allowed int)) error
}

var attacks = []attack{
	{"connections", "4096 connections from four addresses of loopback, and again", attackConnections},
	{"events", "16,000 opens of `events`, then 1100 of vsock ports again and again", attackEvents},
	{"log", "12,000 opens of `log`, a read of each, and again", attackLog},
	{"reads", "204,800 blocking reads of `events` on 100 connections, and again", attackReads},
	{"messages", "1020 messages of 1 MiB left unfinished, and again", attackMessages},
	{"errors", "walks, opens and mkdirs that fail, with bytes that are no text, on 8 connections", attackErrors},
	{"requests", "as many Tgetattrs as fit into 64 connections", attackRequests},
}

// attackers are n connections, or as many as are let in. A few always are, once the server
// has seen that those before are gone.
func attackers(addr string, n int, msize uint32) (all []*attacker) {
	const few = 10
	for i := range n {
		c, err := attackFrom(addr, 1+i%4, msize)
		for end := time.Now().Add(patience); err != nil && n <= few && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
			c, err = attackFrom(addr, 1+i%4, msize)
		}
		if err == nil {
			all = append(all, c)
		}
	}
	return all
}

func closeAll(all []*attacker) {
	for _, c := range all {
		c.Close()
	}
}

// refused is an error that is none: the server may hang up on who attacks it.
func refused(err error) error {
	var op *net.OpError
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) && !op.Timeout() {
		return nil
	}
	return err
}

// repeat runs one round of an attack after the other.
func repeat(addr string, conns int, msize uint32, again func() bool, round func(all []*attacker) error) error {
	for {
		all := attackers(addr, conns, msize)
		err := round(all)
		closeAll(all)
		if err = refused(err); err != nil || !again() {
			return err
		}
	}
}

func attackConnections(addr string, again func() bool, height func(int)) error {
	return repeat(addr, 4096, 8192, again, func(all []*attacker) error {
		height(len(all))
		return nil
	})
}

func attackEvents(addr string, again func() bool, height func(int)) error {
	return repeat(addr, 3, 8192, again, func(all []*attacker) error {
		if len(all) < 3 {
			return errors.New("no connection is let in")
		}
		allowed := 0
		for i, names := range [][]string{{"events"}, {"web", "events"}} {
			n, err := all[i].opens(8000, names...)
			if err != nil {
				return err
			}
			allowed += n
		}
		for first := true; first || again(); first = false {
			for i := range 1100 {
				if _, err := all[2].opens(1, "web", "vsock", strconv.Itoa(1000+i)); err != nil {
					return err
				}
				all[2].add(wire.Tclunk, wire.Msg{Fid: all[2].fids})
				if _, err := all[2].reply(); err != nil {
					return err
				}
			}
			if first {
				height(allowed)
			}
		}
		return nil
	})
}

func attackLog(addr string, again func() bool, height func(int)) error {
	return repeat(addr, 1, 8192, again, func(all []*attacker) error {
		if len(all) == 0 {
			return errors.New("no connection is let in")
		}
		n, err := all[0].opens(12000, "web", "log")
		for i := uint32(1); i <= uint32(n) && err == nil; i++ {
			all[0].add(wire.Tread, wire.Msg{Tag: uint16(i), Fid: i, Count: 100})
			if i%500 == 0 {
				for range 500 {
					_, err = all[0].reply()
				}
			}
		}
		height(n)
		return err
	})
}

func attackReads(addr string, again func() bool, height func(int)) error {
	const conns, reads, files = 100, 2048, 20
	return repeat(addr, conns, 8192, again, func(all []*attacker) error {
		blocked := 0
		for _, c := range all {
			if _, err := c.opens(files, "events"); err != nil {
				return err
			}
			for i := range reads {
				c.add(wire.Tread, wire.Msg{Tag: uint16(1 + i), Fid: uint32(1 + i%files), Count: 1})
			}
			// What is refused is answered before this, which is not.
			c.add(wire.Tgetattr, wire.Msg{Tag: 50000})
			for n := 0; ; n++ {
				if errno, err := c.reply(); err != nil {
					return err
				} else if errno == 0 {
					blocked += reads - n
					break
				}
			}
		}
		height(blocked)
		return nil
	})
}

func attackMessages(addr string, again func() bool, height func(int)) error {
	const size = 1 << 20
	half := binary.LittleEndian.AppendUint32(nil, size)
	half = append(half, byte(wire.Twrite), 1, 0)
	half = append(half, make([]byte, size/2)...)
	return repeat(addr, 1020, size+24, again, func(all []*attacker) (err error) {
		for _, c := range all {
			if _, err = c.Write(half); err != nil {
				break
			}
		}
		height(len(all))
		return err
	})
}

func attackErrors(addr string, again func() bool, height func(int)) error {
	return repeat(addr, 8, 8192, again, func(all []*attacker) error {
		allowed := 0
		for first := true; first || again(); first = false {
			for _, c := range all {
				for range 100 {
					c.add(wire.Twalk, wire.Msg{Fid: 0, Fid2: 7, Names: []string{"\x1b[2J\xff\xc2\x9b"}})
					c.add(wire.Tlopen, wire.Msg{Fid: 4711})
					c.add(wire.Tmkdir, wire.Msg{Fid: 0, Name: "mine\x1b"})
				}
				for range 300 {
					if errno, err := c.reply(); err != nil {
						return err
					} else if errno == 0 {
						allowed++
					}
				}
			}
			if first {
				height(allowed)
			}
		}
		return nil
	})
}

func attackRequests(addr string, again func() bool, height func(int)) error {
	return repeat(addr, 64, 8192, again, func(all []*attacker) error {
		done := make(chan error)
		for _, c := range all {
			for range 2000 {
				c.add(wire.Tgetattr, wire.Msg{Fid: 0})
			}
			go io.Copy(io.Discard, c.in) // until the connection is closed
			go func() {
				var err error
				for first := true; err == nil && (first || again()); first = false {
					_, err = c.Write(c.out)
				}
				done <- err
			}()
		}
		height(len(all))
		var err error
		for range all {
			err = errors.Join(err, <-done)
		}
		return err
	})
}

// attackMain is the program vmfs-attack: one attack for a time, a loop that does nothing
// but take its core, or the client whose answers are timed. It prints what it found.
//
//	vmfs-attack NAME|spin|client ADDR DURATION
func attackMain() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "vmfs-attack NAME|spin|client ADDR DURATION")
		os.Exit(2)
	}
	length, err := time.ParseDuration(os.Args[3])
	end := time.Now().Add(length)
	again := func() bool { return time.Now().Before(end) }
	switch i := slices.IndexFunc(attacks, func(a attack) bool { return a.name == os.Args[1] }); {
	case err != nil:
	case os.Args[1] == "spin":
		for again() {
		}
	case os.Args[1] == "client":
		err = timeClient(os.Args[2], again)
	case i < 0:
		err = errors.New("no such attack")
	default:
		var once sync.Once
		err = attacks[i].run(os.Args[2], again, func(allowed int) { once.Do(func() { fmt.Println(allowed) }) })
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmfs-attack:", err)
		os.Exit(1)
	}
}

// timeClient reads a VM's state again and again, and prints how long that took.
func timeClient(addr string, again func() bool) error {
	c, err := attackFrom(addr, 0, 8192)
	if err != nil {
		return err
	}
	defer c.Close()
	var took []time.Duration
	for again() {
		begin := time.Now()
		for _, step := range []struct {
			t wire.Type
			m wire.Msg
		}{
			{wire.Twalk, wire.Msg{Fid: 0, Fid2: 1, Names: []string{"web", "state"}}},
			{wire.Tlopen, wire.Msg{Fid: 1}},
			{wire.Tread, wire.Msg{Fid: 1, Count: 100}},
			{wire.Tclunk, wire.Msg{Fid: 1}},
		} {
			c.add(step.t, step.m)
			if errno, err := c.reply(); err != nil || errno != 0 {
				return fmt.Errorf("%v: errno %d: %w", step.t, errno, err)
			}
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	at := func(p int) time.Duration {
		return took[min(len(took)-1, len(took)*p/1000)].Round(100 * time.Nanosecond)
	}
	fmt.Println(len(took), at(500), at(990), at(999))
	return nil
}
