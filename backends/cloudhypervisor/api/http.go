package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"time"

	"vmfs/internal/unixsock"
)

// maxAnswer bounds an answer in bytes. The longest, vm.info with the VM's device tree, has some
// tens of KiB; the bound keeps a VMM that was taken over by its guest from taking the server's
// memory too.
const maxAnswer = 4 << 20

// errUnsent means that nothing of a request was written, so that the VMM cannot know of it.
var errUnsent = errors.New("request was not sent")

// A request is one call.
type request struct {
	method string
	call   string // its name, which is the last part of its path
	body   []byte // nil for none
	files  []*os.File
}

// bytes are the request as it is sent.
func (r *request) bytes() []byte {
	b := fmt.Appendf(nil, "%s /api/v1/%s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n", r.method, r.call)
	if r.body != nil {
		b = fmt.Appendf(b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(r.body))
	}
	return append(append(b, "\r\n"...), r.body...)
}

// An answer is what came of a request.
type answer struct {
	status int
	body   []byte
	keep   bool // the connection can be used for another request
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
func (c *conn) roundTrip(ctx context.Context, r request) (answer, error) {
	if err := ctx.Err(); err != nil {
		return answer{}, err // else the VMM could be faster than what tells of the end
	}
	stop := context.AfterFunc(ctx, func() { _ = c.nc.SetDeadline(time.Unix(1, 0)) })
	a, err := func() (answer, error) {
		if err := c.send(r); err != nil {
			return answer{}, err
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
func (c *conn) send(r request) error {
	b := r.bytes()
	var n int
	var err error
	if len(r.files) > 0 {
		n, err = unixsock.SendFiles(c.nc, b, r.files)
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

// readAnswer reads one answer. Of HTTP/1.1 it takes what Cloud Hypervisor's server says: a body
// has its length in front of it, or goes on to the end of the connection.
func readAnswer(r *bufio.Reader) (answer, error) {
	for {
		a, length, err := readHead(r)
		if err != nil {
			return answer{}, err
		}
		switch {
		case a.status < 200: // it goes on, and the answer follows
			continue
		case a.status == 204:
		case length >= 0:
			if length > maxAnswer {
				return answer{}, fmt.Errorf("%w: its body has %d bytes, more than %d", ErrProtocol, length, maxAnswer)
			}
			a.body = make([]byte, length)
			if _, err := io.ReadFull(r, a.body); err != nil {
				return answer{}, err
			}
		default:
			a.keep = false
			if a.body, err = io.ReadAll(r); err != nil {
				return answer{}, err
			}
		}
		// What has come behind an answer is no answer to the next request.
		a.keep = a.keep && r.Buffered() == 0
		return a, nil
	}
}

// readHead reads the first line and the header. A length of -1 is none.
func readHead(r *bufio.Reader) (a answer, length int64, err error) {
	tp := textproto.NewReader(r)
	line, err := tp.ReadLine()
	if err != nil {
		return a, 0, err
	}
	proto, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	a.status, err = strconv.Atoi(code)
	if err != nil || len(code) != 3 || a.status < 100 || proto != "HTTP/1.1" && proto != "HTTP/1.0" {
		return a, 0, fmt.Errorf("%w: it begins with %.100q", ErrProtocol, line)
	}
	h, err := tp.ReadMIMEHeader()
	if err != nil {
		var malformed textproto.ProtocolError
		if errors.As(err, &malformed) {
			err = fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		return a, 0, err
	}
	if h.Get("Transfer-Encoding") != "" {
		return a, 0, fmt.Errorf("%w: its body is encoded as %.100q", ErrProtocol, h.Get("Transfer-Encoding"))
	}
	a.keep = proto == "HTTP/1.1" && !strings.EqualFold(h.Get("Connection"), "close") && a.status <= 299
	length = -1
	if s := h.Get("Content-Length"); s != "" {
		if length, err = strconv.ParseInt(s, 10, 64); err != nil || length < 0 {
			return a, 0, fmt.Errorf("%w: its length is %.100q", ErrProtocol, s)
		}
	}
	return a, length, nil
}
