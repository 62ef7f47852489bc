package control

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Port is the vsock port of the control service.
const Port = 1026

// Version is of the protocol's meaning: see the package comment.
const Version = 1

// MaxLine bounds a line, its end included.
const MaxLine = 4096

// ErrProtocol says that the other side does not speak this protocol.
var ErrProtocol = errors.New("not the protocol of the control port")

// A Code says of what kind a refusal is.
type Code string

// The codes. An agent may have others in time.
const (
	CodeUnknown Code = "unknown" // a request that the agent does not have
	CodeInvalid Code = "invalid" // a key that the request does not have, or a bad value
	CodeFailed  Code = "failed"  // the guest could not do it
)

// A Refusal is the agent's answer to a request that it did not fulfil.
type Refusal struct {
	Code Code
	Text string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("the guest's agent says: %s (%s)", r.Text, r.Code)
}

// fields are the keys and values of a line.
type fields map[string]string

// parseLine takes a line apart into its first word and its fields. Words are parted by
// one or more spaces; a key is lower-case letters, digits and dashes.
func parseLine(line string) (word string, f fields, err error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return "", nil, fmt.Errorf("%w: an empty line", ErrProtocol)
	}
	f = make(fields, len(words)-1)
	for _, w := range words[1:] {
		key, value, ok := strings.Cut(w, "=")
		if !ok || key == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return "", nil, fmt.Errorf("%w: %q is not KEY=VALUE", ErrProtocol, w)
		}
		if _, twice := f[key]; twice {
			return "", nil, fmt.Errorf("%w: %s= twice", ErrProtocol, key)
		}
		f[key] = value
	}
	return words[0], f, nil
}

// readLine reads a line without its end. At the end of the stream, and only between
// lines, the error is io.EOF. The reader's buffer is MaxLine bytes long.
func readLine(r *bufio.Reader) (string, error) {
	raw, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("%w: a line of more than %d bytes", ErrProtocol, MaxLine)
	case errors.Is(err, io.EOF) && len(raw) > 0:
		return "", fmt.Errorf("%w: it ends within a line", ErrProtocol)
	case err != nil:
		return "", err
	}
	return strings.TrimRight(string(raw), "\r\n"), nil
}

// bytes returns the number of the field key.
func (f fields) bytes(key string) (int64, error) {
	n, err := strconv.ParseUint(f[key], 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%w: %s=%q is not a number of bytes", ErrProtocol, key, f[key])
	}
	return int64(n), nil
}

// formatTime writes a time as its seconds since 1970 with nine decimals.
func formatTime(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }

// parseTime reads SECONDS or SECONDS.DECIMALS, at most nine of them. There is no time
// before 1970, nor one that a 64-bit count of nanoseconds does not hold (2262).
func parseTime(s string) (time.Time, error) {
	sec, dec, point := strings.Cut(s, ".")
	digits := func(d string) bool { return d != "" && strings.Trim(d, "0123456789") == "" }
	if !digits(sec) || point && (!digits(dec) || len(dec) > 9) {
		return time.Time{}, fmt.Errorf("%w: %q is not a time in seconds", ErrProtocol, s)
	}
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil || n > (1<<63-1)/int64(time.Second)-1 {
		return time.Time{}, fmt.Errorf("%w: time %q is too far off", ErrProtocol, s)
	}
	nsec, _ := strconv.ParseInt((dec + "000000000")[:9], 10, 64) // nine digits
	return time.Unix(n, nsec), nil
}
