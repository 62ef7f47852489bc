package exec

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	require.NoError(t, w.Start(Start{Version: Version, Args: []string{"ls", "-l"}, TTY: &Size{24, 80}}))
	require.NoError(t, w.Size(Size{1, 65535}))
	require.NoError(t, w.Ack(70000))
	require.NoError(t, w.Frame(TypeExit, []byte{7}))
	require.NoError(t, w.Frame(TypeStdinEnd, nil))
	require.ErrorIs(t, w.Frame(TypeStdin, make([]byte, MaxPayload+1)), ErrProtocol)

	r := NewReader(&b)
	next := func(want Type) []byte {
		t.Helper()
		got, payload, err := r.Frame()
		require.NoError(t, err)
		require.Equal(t, want, got)
		return payload
	}
	start, err := ParseStart(next(TypeStart))
	require.NoError(t, err)
	assert.Equal(t, Start{Version: Version, Args: []string{"ls", "-l"}, TTY: &Size{24, 80}}, start)
	size, err := ParseSize(next(TypeSize))
	require.NoError(t, err)
	assert.Equal(t, Size{1, 65535}, size)
	n, err := ParseAck(next(TypeAck))
	require.NoError(t, err)
	assert.Equal(t, 70000, n)
	code, err := ParseByte(next(TypeExit))
	require.NoError(t, err)
	assert.Equal(t, byte(7), code)
	assert.Empty(t, next(TypeStdinEnd))
	_, _, err = r.Frame()
	assert.ErrorIs(t, err, io.EOF)

	for _, cut := range []string{"O", "O\x00\x00\x00\x02x"} {
		_, _, err := NewReader(strings.NewReader(cut)).Frame()
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("C\x00\x00\x00\x1a{\"version\":1,\"args\":[\"x\"]}W\x00\x00\x00\x04abcdA\x00\x00\x00\x04\x00\x00\x00\x01X\x00\x00\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewReader(bytes.NewReader(in))
		for {
			_, payload, err := r.Frame()
			if err != nil {
				return
			}
			if s, err := ParseStart(payload); err == nil && len(s.Args) == 0 {
				t.Error("a start without a program")
			}
			if n, err := ParseAck(payload); err == nil && (n < 0 || n > Window) {
				t.Errorf("%d bytes acknowledged", n)
			}
			_, _ = ParseSize(payload)
			_, _ = ParseByte(payload)
		}
	})
}

// run runs a command against a peer that sends the given bytes after the start.
func run(ctx context.Context, answer string, hold bool, c Command) (int, error) {
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		if _, _, err := NewReader(theirs).Frame(); err != nil {
			return
		}
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		if _, err := io.WriteString(theirs, answer); err != nil || hold {
			<-ctx.Done()
		}
	}()
	return Run(ctx, ours, c)
}

func TestRunErrors(t *testing.T) {
	ls := Command{Args: []string{"ls"}}
	ctx := t.Context()
	_, err := run(ctx, "", false, Command{})
	require.ErrorContains(t, err, "no program")

	_, err = run(ctx, "O\x00\x00\x00\x01x", false, ls)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.Contains(t, err.Error(), "guest: run ls: its exit status is unknown")

	for _, bad := range []string{"Z\x00\x00\x00\x00", "X\x00\x00\x00\x00", "A\x00\x00\x00\x01x", "O\x7f\x00\x00\x00"} {
		_, err = run(ctx, bad, false, ls)
		require.ErrorIs(t, err, ErrProtocol, "%q", bad)
	}

	_, err = run(ctx, "F\x00\x00\x00\x02noX\x00\x00\x00\x01\x7f", false, ls)
	var se *StartError
	require.ErrorAs(t, err, &se)
	assert.Equal(t, StartError{"ls", "no", 127}, *se)

	_, err = run(ctx, "F\x00\x00\x00\x0a\x1b[2J\xc2\x9b\xff\nno"+"X\x00\x00\x00\x01\x7f", false, ls)
	require.ErrorAs(t, err, &se)
	assert.Equal(t, `guest: run ls: \x1b[2J\u009b\xff no`, err.Error(), "what a guest says does not get at the terminal")

	full := errors.New("disk full")
	_, err = run(ctx, "O\x00\x00\x00\x01x", true, Command{Args: []string{"ls"}, Stdout: writerFunc(func([]byte) (int, error) { return 0, full })})
	require.ErrorIs(t, err, full)

	ctx, cancel := context.WithCancel(ctx)
	_, err = run(ctx, "O\x00\x00\x00\x01x", true, Command{Args: []string{"ls"}, Stdout: writerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil })})
	require.ErrorIs(t, err, context.Canceled)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// The client sends no more input than it has credit for.
func TestWindow(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	done := make(chan error, 1)
	go func() {
		_, err := Run(t.Context(), ours, Command{Args: []string{"cat"}, Stdin: strings.NewReader(strings.Repeat("x", Window+5))})
		done <- err
	}()
	r, w := NewReader(theirs), NewWriter(theirs)
	kind, _, err := r.Frame()
	require.NoError(t, err)
	require.Equal(t, TypeStart, kind)
	got := 0
	read := func() (Type, int) {
		kind, payload, err := r.Frame()
		require.NoError(t, err)
		return kind, len(payload)
	}
	for got < Window {
		kind, n := read()
		require.Equal(t, TypeStdin, kind)
		got += n
	}
	require.Equal(t, Window, got)
	require.NoError(t, w.Ack(3))
	_, n := read()
	require.Equal(t, 3, n)
	require.NoError(t, w.Ack(100))
	_, n = read()
	require.Equal(t, 2, n)
	kind, _ = read()
	require.Equal(t, TypeStdinEnd, kind)
	require.NoError(t, w.Frame(TypeExit, []byte{0}))
	require.NoError(t, <-done)
}
