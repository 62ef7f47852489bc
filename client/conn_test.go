package client

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/ninep/wire"
)

const patience = 20 * time.Second

// A script is a server that says what a test wants: what a real one does only in
// bad luck. It attaches by itself and leaves everything else to the test.
type script struct {
	t    *testing.T
	conn net.Conn
	out  wire.Codec
	got  chan wire.Msg

	stalls wire.Type     // after such a request it takes nothing more
	resume chan struct{} // until this is closed
}

// scripted returns a Client and the server that it is attached to.
func scripted(t *testing.T) (*Client, *script) {
	t.Helper()
	here, there := net.Pipe()
	s := &script{t: t, conn: there, out: wire.Codec{Dialect: wire.Linux}, got: make(chan wire.Msg, 100)}
	var wg sync.WaitGroup
	wg.Go(s.receive)
	t.Cleanup(wg.Wait)
	var c *Client
	var err error
	attached := make(chan struct{})
	go func() {
		defer close(attached)
		c, err = Config{}.Attach(t.Context(), here)
	}()
	v := s.expect(wire.Tversion)
	assert.Equal(t, "9P2000.L", v.Name)
	assert.Equal(t, wire.NoTag, v.Tag)
	s.say(wire.Tversion+1, wire.Msg{Tag: v.Tag, Count: 8192, Name: "9P2000.L"})
	a := s.expect(wire.Tattach)
	assert.Equal(t, wire.NoFid, a.Fid2)
	assert.Equal(t, wire.NoUser, a.UID)
	s.say(wire.Tattach+1, wire.Msg{Tag: a.Tag})
	<-attached
	require.NoError(t, err)
	t.Cleanup(func() {
		c.Close()
		there.Close()
	})
	return c, s
}

func (s *script) receive() {
	defer close(s.got)
	in := wire.Codec{Dialect: wire.Linux}
	for {
		var size [4]byte
		if _, err := io.ReadFull(s.conn, size[:]); err != nil {
			return
		}
		frame := make([]byte, binary.LittleEndian.Uint32(size[:]))
		copy(frame, size[:])
		if _, err := io.ReadFull(s.conn, frame[4:]); err != nil {
			return
		}
		var m wire.Msg
		if err := in.Decode(frame, &m); err != nil {
			s.t.Errorf("the client sent no message: %v", err)
			return
		}
		stalls := m.Type == s.stalls
		s.got <- m
		if stalls {
			<-s.resume
		}
	}
}

// expect returns the next request, which must be of that type.
func (s *script) expect(typ wire.Type) wire.Msg {
	s.t.Helper()
	select {
	case m, ok := <-s.got:
		require.True(s.t, ok, "the connection is gone")
		require.Equal(s.t, wire.Linux.Name(typ), wire.Linux.Name(m.Type))
		return m
	case <-time.After(patience):
		require.FailNow(s.t, "no request", wire.Linux.Name(typ))
		return wire.Msg{}
	}
}

func (s *script) say(typ wire.Type, m wire.Msg) {
	s.t.Helper()
	_, err := s.conn.Write(s.out.Append(nil, typ, &m))
	require.NoError(s.t, err)
}

// opened opens a file on the scripted server.
func (s *script) opened(c *Client) *File {
	s.t.Helper()
	type result struct {
		f   *File
		err error
	}
	done := make(chan result, 1)
	go func() {
		f, err := c.Open(s.t.Context(), "web/events", os.O_RDONLY)
		done <- result{f, err}
	}()
	w := s.expect(wire.Twalk)
	s.say(wire.Twalk+1, wire.Msg{Tag: w.Tag, QIDs: make([]p9.QID, 2)})
	o := s.expect(wire.Tlopen)
	s.say(wire.Tlopen+1, wire.Msg{Tag: o.Tag})
	r := <-done
	require.NoError(s.t, r.err)
	return r.f
}

// read starts a read that ends with the context.
func read(ctx context.Context, f *File) (data func() (string, error)) {
	var text string
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 100)
		var n int
		n, err = f.Read(ctx, buf)
		text = string(buf[:n])
	}()
	return func() (string, error) {
		<-done
		return text, err
	}
}

func TestFlush(t *testing.T) {
	for _, test := range []struct {
		name string
		// serve answers the read with the tag, of which a flush has come.
		serve func(s *script, read, flush uint16)
		text  string
		err   error
	}{
		{
			name:  "given up",
			serve: func(s *script, _, flush uint16) { s.say(wire.Rflush, wire.Msg{Tag: flush}) },
			err:   context.Canceled,
		},
		{
			name: "given up, and told so",
			serve: func(s *script, read, flush uint16) {
				s.say(wire.Rlerror, wire.Msg{Tag: read, Errno: uint32(linux.EINTR)})
				s.say(wire.Rflush, wire.Msg{Tag: flush})
			},
			err: context.Canceled,
		},
		{
			name: "answered before", // what was read must not be lost
			serve: func(s *script, read, flush uint16) {
				s.say(wire.Rread, wire.Msg{Tag: read, Data: []byte("line\n")})
				s.say(wire.Rflush, wire.Msg{Tag: flush})
			},
			text: "line\n",
		},
		{
			name: "refused before",
			serve: func(s *script, read, flush uint16) {
				s.say(wire.Rlerror, wire.Msg{Tag: read, Errno: uint32(linux.EIO)})
				s.say(wire.Rflush, wire.Msg{Tag: flush})
			},
			err: linux.EIO,
		},
		{
			name: "not flushed at all, and answered when nobody looks any more",
			serve: func(s *script, read, flush uint16) {
				time.Sleep(flushWait + flushWait/4)
				s.say(wire.Rread, wire.Msg{Tag: read, Data: []byte("late\n")})
				s.say(wire.Rflush, wire.Msg{Tag: flush})
			},
			err: context.Canceled,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, s := scripted(t)
			f := s.opened(c)
			ctx, cancel := context.WithCancel(t.Context())
			result := read(ctx, f)
			r := s.expect(wire.Tread)
			cancel()
			flush := s.expect(wire.Tflush)
			assert.Equal(t, uint32(r.Tag), flush.Count)
			assert.NotEqual(t, r.Tag, flush.Tag)
			test.serve(s, r.Tag, flush.Tag)
			text, err := result()
			assert.Equal(t, test.text, text)
			if test.err == nil {
				assert.NoError(t, err)
			} else {
				assert.ErrorIs(t, err, test.err)
			}
			// The connection goes on, and the tags come back, soon after the answer: many more
			// reads need no new ones.
			require.Eventually(t, func() bool {
				c.conn.mu.Lock()
				defer c.conn.mu.Unlock()
				return len(c.conn.tags) == 2
			}, patience, time.Millisecond)
			for i := range 3 {
				result := read(t.Context(), f)
				asks := 1
				if i == 0 && test.text != "" {
					asks = 2 // after a short reply, an end is believed the second time
				}
				for range asks {
					m := s.expect(wire.Tread)
					assert.Equal(t, uint64(len(test.text)), m.Offset)
					assert.Less(t, m.Tag, uint16(2))
					s.say(wire.Rread, wire.Msg{Tag: m.Tag})
				}
				_, err := result()
				assert.ErrorIs(t, err, io.EOF)
			}
		})
	}
}

// TestTagHeld: a tag that is being flushed is not another request's before the
// Rflush, whatever came before that (flush(5)).
func TestTagHeld(t *testing.T) {
	c, s := scripted(t)
	f := s.opened(c)
	ctx, cancel := context.WithCancel(t.Context())
	first := read(ctx, f)
	r := s.expect(wire.Tread)
	cancel()
	flush := s.expect(wire.Tflush)
	s.say(wire.Rread, wire.Msg{Tag: r.Tag, Data: []byte("x")})
	second := make(chan error, 1)
	go func() {
		_, err := c.Stat(t.Context(), "")
		second <- err
	}()
	w := s.expect(wire.Twalk)
	assert.NotEqual(t, r.Tag, w.Tag)
	assert.NotEqual(t, flush.Tag, w.Tag)
	s.say(wire.Rflush, wire.Msg{Tag: flush.Tag})
	text, err := first()
	require.NoError(t, err)
	assert.Equal(t, "x", text)
	s.say(wire.Rlerror, wire.Msg{Tag: w.Tag, Errno: uint32(linux.ENOENT)})
	assert.ErrorIs(t, <-second, linux.ENOENT)
}

// TestLateWalk: a walk that nobody waited for leaves no fid on the server.
func TestLateWalk(t *testing.T) {
	c, s := scripted(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.Open(ctx, "web/state", os.O_RDONLY)
		done <- err
	}()
	w := s.expect(wire.Twalk)
	cancel()
	s.expect(wire.Tflush)
	require.ErrorIs(t, <-done, context.Canceled)
	s.say(wire.Twalk+1, wire.Msg{Tag: w.Tag, QIDs: make([]p9.QID, 2)})
	clunk := s.expect(wire.Tclunk)
	assert.Equal(t, w.Fid2, clunk.Fid)
	s.say(wire.Tclunk+1, wire.Msg{Tag: clunk.Tag})
}

// TestDeafServer: a server that takes nothing holds no call up for longer than its
// context.
func TestDeafServer(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := Config{}.Attach(ctx, here)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestSilentServer: a server that says nothing more holds no call up either, and what the
// call had open is given back once the server goes on.
func TestSilentServer(t *testing.T) {
	c, s := scripted(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := c.ReadFile(ctx, "web/state")
		done <- err
	}()
	w := s.expect(wire.Twalk)
	s.say(wire.Twalk+1, wire.Msg{Tag: w.Tag, QIDs: make([]p9.QID, 2)})
	o := s.expect(wire.Tlopen)
	s.say(wire.Tlopen+1, wire.Msg{Tag: o.Tag})
	s.expect(wire.Tread)
	select {
	case err := <-done:
		require.ErrorIs(t, err, context.DeadlineExceeded)
	case <-time.After(flushWait + patience/2):
		t.Fatal("it waits for a server that is silent")
	}
	s.expect(wire.Tflush)
	assert.Equal(t, w.Fid2, s.expect(wire.Tclunk).Fid)
}

// TestStalledServer: where not even the Tflush gets through, the answer that comes in the
// end does not go where nobody expects it any more, and the connection goes on.
func TestStalledServer(t *testing.T) {
	c, s := scripted(t)
	f := s.opened(c)
	s.stalls, s.resume = wire.Tread, make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	buf := make([]byte, 100)
	done := make(chan error, 1)
	go func() {
		_, err := f.Read(ctx, buf)
		done <- err
	}()
	r := s.expect(wire.Tread)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	s.stalls = 0
	close(s.resume)
	s.say(wire.Rread, wire.Msg{Tag: r.Tag, Data: []byte("late\n")})
	for range 3 {
		result := read(t.Context(), f)
		m := s.expect(wire.Tread)
		assert.Zero(t, m.Offset)
		assert.Less(t, m.Tag, uint16(2), "its tag came back")
		s.say(wire.Rread, wire.Msg{Tag: m.Tag})
		_, err := result()
		assert.ErrorIs(t, err, io.EOF)
	}
	assert.Zero(t, buf[0], "what was read late is nobody's")
}

func TestBrokenServer(t *testing.T) {
	for name, answer := range map[string]func(s *script, m wire.Msg){
		"hangs up":              func(s *script, _ wire.Msg) { s.conn.Close() },
		"another type":          func(s *script, m wire.Msg) { s.say(wire.Tlopen+1, wire.Msg{Tag: m.Tag}) },
		"another tag":           func(s *script, m wire.Msg) { s.say(wire.Rread, wire.Msg{Tag: m.Tag + 7}) },
		"more than asked for":   func(s *script, m wire.Msg) { s.say(wire.Rread, wire.Msg{Tag: m.Tag, Data: make([]byte, 101)}) },
		"more than a message":   func(s *script, m wire.Msg) { s.conn.Write([]byte{0, 0, 1, 0, 117, 0, 0}) },
		"less than a header":    func(s *script, m wire.Msg) { s.conn.Write([]byte{3, 0, 0, 0, 117, 0, 0}) },
		"not a message at all":  func(s *script, m wire.Msg) { s.conn.Write([]byte{8, 0, 0, 0, 7, byte(m.Tag), 0, 1}) },
		"a longer one than due": func(s *script, m wire.Msg) { s.conn.Write([]byte{8, 0, 0, 0, 121, byte(m.Tag), 0, 1}) },
	} {
		t.Run(name, func(t *testing.T) {
			c, s := scripted(t)
			f := s.opened(c)
			result := read(t.Context(), f)
			answer(s, s.expect(wire.Tread))
			_, err := result()
			require.ErrorIs(t, err, ErrLost)
			require.NotErrorIs(t, err, io.EOF, "that is a file's end")
			_, err = c.Stat(t.Context(), "web")
			require.ErrorIs(t, err, ErrLost, "and everything after it")
		})
	}
}

func TestVersionRefused(t *testing.T) {
	for name, answer := range map[string]wire.Msg{
		"unknown":   {Count: 8192, Name: "unknown"},
		"9P2000":    {Count: 8192, Name: "9P2000"},
		"too small": {Count: 200, Name: "9P2000.L"},
		"too large": {Count: DefaultMessageSize + 1, Name: "9P2000.L"},
	} {
		t.Run(name, func(t *testing.T) {
			here, there := net.Pipe()
			s := &script{t: t, conn: there, out: wire.Codec{Dialect: wire.Linux}, got: make(chan wire.Msg, 10)}
			go s.receive()
			done := make(chan error, 1)
			go func() {
				_, err := Config{}.Attach(t.Context(), here)
				done <- err
			}()
			answer.Tag = s.expect(wire.Tversion).Tag
			s.say(wire.Tversion+1, answer)
			assert.Error(t, <-done)
			_, err := there.Read(make([]byte, 1))
			assert.True(t, errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe), "the connection is closed: %v", err)
		})
	}
}
