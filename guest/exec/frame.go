package exec

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Ports of the guest agent's exec services.
const (
	PlainPort  = 1024
	FramedPort = 1025
)

// Limits of the protocol.
const (
	MaxPayload = 64 << 10
	Window     = 256 << 10
)

// Type is what a frame is.
type Type byte

// The types, as the package comment describes them.
const (
	TypeStart    Type = 'C'
	TypeStdin    Type = 'I'
	TypeStdinEnd Type = 'E'
	TypeSize     Type = 'W'
	TypeSignal   Type = 'S'
	TypeStdout   Type = 'O'
	TypeStderr   Type = 'R'
	TypeAck      Type = 'A'
	TypeFailed   Type = 'F'
	TypeExit     Type = 'X'
)

// Version is the protocol's version, part of Start.
const Version = 1

// Start asks for a program.
type Start struct {
	Version int      `json:"version"`
	Args    []string `json:"args"`          // looked up in the guest's PATH unless it has a slash
	Env     []string `json:"env,omitempty"` // KEY=VALUE, added to the guest's usual ones
	Dir     string   `json:"dir,omitempty"` // "" is /root
	TTY     *Size    `json:"tty,omitempty"` // run it on a terminal of this size
}

// Size is a terminal's size in characters.
type Size struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// ErrProtocol is what every error about a malformed stream wraps.
var ErrProtocol = errors.New("exec protocol error")

// Writer writes frames. It may be used concurrently.
type Writer struct {
	mu sync.Mutex // held over a frame's write
	w  io.Writer
}

// NewWriter returns a Writer of frames to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Frame writes one frame. The payload must not be longer than MaxPayload.
func (w *Writer) Frame(t Type, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("%w: a frame of %d bytes is longer than %d", ErrProtocol, len(payload), MaxPayload)
	}
	b := make([]byte, 5, 5+len(payload))
	b[0] = byte(t)
	binary.BigEndian.PutUint32(b[1:], uint32(len(payload)))
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.w.Write(append(b, payload...))
	return err
}

// Start writes a start frame.
func (w *Writer) Start(s Start) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return w.Frame(TypeStart, b)
}

// Ack writes an acknowledgement of n bytes.
func (w *Writer) Ack(n int) error {
	return w.Frame(TypeAck, binary.BigEndian.AppendUint32(nil, uint32(n)))
}

// Size writes a terminal's size.
func (w *Writer) Size(s Size) error {
	return w.Frame(TypeSize, binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, s.Rows), s.Cols))
}

// Reader reads frames.
type Reader struct {
	r   io.Reader
	buf []byte
}

// NewReader returns a Reader of frames from r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Frame reads one frame. The payload is good until the next call. io.EOF means
// that the stream ended between frames.
func (r *Reader) Frame() (Type, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxPayload {
		return 0, nil, fmt.Errorf("%w: a frame of %d bytes is longer than %d", ErrProtocol, n, MaxPayload)
	}
	if int(n) > cap(r.buf) {
		r.buf = make([]byte, n)
	}
	r.buf = r.buf[:n]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return Type(head[0]), r.buf, nil
}

// ParseStart reads a start frame's payload.
func ParseStart(payload []byte) (Start, error) {
	var s Start
	if err := json.Unmarshal(payload, &s); err != nil {
		return s, fmt.Errorf("%w: start: %w", ErrProtocol, err)
	}
	switch {
	case s.Version != Version:
		return s, fmt.Errorf("%w: the other side speaks version %d, this side %d", ErrProtocol, s.Version, Version)
	case len(s.Args) == 0 || s.Args[0] == "":
		return s, fmt.Errorf("%w: start: no program", ErrProtocol)
	}
	return s, nil
}

// ParseSize reads a size frame's payload.
func ParseSize(payload []byte) (Size, error) {
	if len(payload) != 4 {
		return Size{}, fmt.Errorf("%w: a size frame has %d bytes, not 4", ErrProtocol, len(payload))
	}
	return Size{binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])}, nil
}

// ParseAck reads an acknowledgement's payload.
func ParseAck(payload []byte) (int, error) {
	if len(payload) != 4 {
		return 0, fmt.Errorf("%w: an acknowledgement frame has %d bytes, not 4", ErrProtocol, len(payload))
	}
	n := binary.BigEndian.Uint32(payload)
	if n > Window {
		return 0, fmt.Errorf("%w: %d bytes acknowledged, more than the window of %d", ErrProtocol, n, Window)
	}
	return int(n), nil
}

// ParseByte reads the payload of a signal or an end.
func ParseByte(payload []byte) (byte, error) {
	if len(payload) != 1 {
		return 0, fmt.Errorf("%w: the frame has %d bytes, not 1", ErrProtocol, len(payload))
	}
	return payload[0], nil
}
