package shimapi

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ErrProtocol means that the other end does not speak this protocol.
var ErrProtocol = errors.New("not of the vz-shim protocol")

// NewReader returns a reader for ReadLine.
func NewReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, MaxLine) }

// ReadLine reads one line into v. At the end, between two lines, it is io.EOF. A line that
// is too long, or does not become v, is an ErrProtocol.
func ReadLine(r *bufio.Reader, v any) error {
	line, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return fmt.Errorf("%w: a line of more than %d bytes", ErrProtocol, MaxLine)
	case errors.Is(err, io.EOF) && len(line) > 0:
		return fmt.Errorf("%w: the last line has no end", ErrProtocol)
	case err != nil:
		return err
	}
	if err := Strict(line, v); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return nil
}

// Line makes a line of v.
func Line(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(b) >= MaxLine {
		return nil, fmt.Errorf("%w: a message of %d bytes", ErrProtocol, len(b))
	}
	return append(b, '\n'), nil
}
