package unixhttp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"vmfs/internal/unixsock"
)

// maxAnswer bounds an answer in bytes, so that whoever serves the socket cannot take the memory
// of who asks.
const maxAnswer = 1 << 20

// maxSmall is the most bytes of a body that an empty socket surely has room for.
const maxSmall = 4 << 10

// errUnsent means that nothing of a request was written, so that the server cannot know of it.
var errUnsent = errors.New("request was not sent")

// A Request is what is asked. Its files go along with its first byte, as SCM_RIGHTS.
type Request struct {
	Method, Path string
	Body         []byte // JSON, nil for none
	Files        []*os.File
}

// bytes are the request as it is sent.
func (r *Request) bytes() []byte {
	b := append(make([]byte, 0, 256), r.Method...)
	b = append(append(b, ' '), r.Path...)
	b = append(b, " HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"...)
	if r.Body != nil {
		b = append(b, "Content-Type: application/json\r\nContent-Length: "...)
		b = append(strconv.AppendInt(b, int64(len(r.Body)), 10), "\r\n"...)
	}
	return append(append(b, "\r\n"...), r.Body...)
}

// An Answer is what came of a request.
type Answer struct {
	Status int
	Body   []byte

	keep bool // the connection can be used for another Request
}

// A conn is one connection. One goroutine uses it at a time.
type conn struct {
	nc    *net.UnixConn
	limit *io.LimitedReader // of nc: what an answer may still have
	r     *bufio.Reader     // of limit
}

func newConn(nc *net.UnixConn) *conn {
	limit := &io.LimitedReader{R: nc}
	return &conn{nc: nc, limit: limit, r: bufio.NewReader(limit)}
}

// roundTrip sends a request and reads its answer. When ctx ends it returns at once, and the
// connection is of no more use; so it is after any other error.
func (c *conn) roundTrip(ctx context.Context, r Request) (Answer, error) {
	if err := ctx.Err(); err != nil {
		return Answer{}, err // else the VMM could be faster than what tells of the end
	}
	// The socket has room for a small request: what would end the wait is made while the server
	// is at it already.
	small := len(r.Body) <= maxSmall && len(r.Files) == 0
	if small {
		if err := c.send(r); err != nil {
			return Answer{}, err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = c.nc.SetDeadline(time.Unix(1, 0)) })
	a, err := func() (Answer, error) {
		if !small {
			if err := c.send(r); err != nil {
				return Answer{}, err
			}
		}
		c.limit.N = maxAnswer
		a, err := readAnswer(c.r)
		if err != nil && c.limit.N <= 0 {
			err = fmt.Errorf("%w: it has more than %d bytes", ErrProtocol, maxAnswer)
		}
		return a, err
	}()
	if !stop() {
		a.keep = false // its deadline has been or will be set
	}
	return a, err
}

// send writes a request.
func (c *conn) send(r Request) error {
	b := r.bytes()
	var n int
	var err error
	if len(r.Files) > 0 {
		n, err = unixsock.SendFiles(c.nc, b, r.Files)
		if err == nil && n < len(b) {
			_, err = c.nc.Write(b[n:])
		}
	} else {
		n, err = c.nc.Write(b)
	}
	if err != nil && n == 0 {
		return fmt.Errorf("%w: %w", errUnsent, err)
	}
	return err
}

// readAnswer reads one answer. Of HTTP/1.1 it takes what small servers say: a body
// has its length in front of it, or goes on to the end of the connection.
func readAnswer(r *bufio.Reader) (Answer, error) {
	for {
		a, length, err := readHead(r)
		if err != nil {
			return Answer{}, err
		}
		switch {
		case a.Status < 200: // it goes on, and the answer follows
			continue
		case a.Status == 204:
		case length >= 0:
			if length > maxAnswer {
				return Answer{}, fmt.Errorf("%w: its body has %d bytes, more than %d", ErrProtocol, length, maxAnswer)
			}
			a.Body = make([]byte, length)
			if _, err := io.ReadFull(r, a.Body); err != nil {
				return Answer{}, err
			}
		default:
			a.keep = false
			if a.Body, err = io.ReadAll(r); err != nil {
				return Answer{}, err
			}
		}
		// What has come behind an answer is no answer to the next request.
		a.keep = a.keep && r.Buffered() == 0
		return a, nil
	}
}

// readHead reads the first line and the header. A length of -1 is none.
func readHead(r *bufio.Reader) (a Answer, length int64, err error) {
	line, err := readLine(r)
	if err != nil {
		return a, 0, err
	}
	proto, rest, _ := strings.Cut(string(line), " ")
	code, _, _ := strings.Cut(rest, " ")
	a.Status, err = strconv.Atoi(code)
	if err != nil || len(code) != 3 || a.Status < 100 || proto != "HTTP/1.1" && proto != "HTTP/1.0" {
		return a, 0, fmt.Errorf("%w: it begins with %.100q", ErrProtocol, line)
	}
	a.keep = proto == "HTTP/1.1" && a.Status <= 299
	length = -1
	for {
		line, err := readLine(r)
		if err != nil || len(line) == 0 {
			return a, length, err
		}
		key, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || len(key) == 0 || bytes.ContainsAny(key, " \t") {
			return a, 0, fmt.Errorf("%w: a line of its header is %.100q", ErrProtocol, line)
		}
		value = bytes.TrimSpace(value)
		switch {
		case is(key, "Connection"):
			a.keep = a.keep && !is(value, "close")
		case is(key, "Transfer-Encoding"):
			return a, 0, fmt.Errorf("%w: its body is encoded as %.100q", ErrProtocol, value)
		case is(key, "Content-Length"):
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil || length < 0 {
				return a, 0, fmt.Errorf("%w: its length is %.100q", ErrProtocol, value)
			}
		}
	}
}

// is compares as the names of HTTP's headers are compared.
func is(b []byte, word string) bool { return len(b) == len(word) && strings.EqualFold(string(b), word) }

// readLine reads a line of a head, without its end. It is good until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("%w: a line of its header has more than %d bytes", ErrProtocol, r.Size())
	case errors.Is(err, io.EOF) && len(line) > 0:
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}
