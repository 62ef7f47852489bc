package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"vmfs/backends/hypervisor"
	"vmfs/internal/unixhttp"
	"vmfs/internal/unixsock"
)

// maxRequest is the longest body that Cloud Hypervisor takes.
const maxRequest = 51200

// notFound is HTTP's status.
const notFound = 404

// A Client speaks to the VMM that serves one socket. It connects when it is called and not
// before. Its methods may be called from any goroutine.
type Client struct {
	socket string
	http   *unixhttp.Client
}

// New returns a client of the VMM that serves the socket, whether or not it does already.
func New(socket string) *Client { return &Client{socket, unixhttp.New(socket)} }

// Close ends the client's connections. Calls that wait return, with ErrClosed.
func (c *Client) Close() error { return c.http.Close() }

// get asks.
func (c *Client) get(ctx context.Context, call string, answer any) error {
	b, err := c.call(ctx, "GET", call, nil, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("%s: %w: %w", call, ErrProtocol, err)
	}
	return nil
}

// put gives an order, with a body unless that is nil, and with files.
func (c *Client) put(ctx context.Context, call string, body any, files ...*os.File) error {
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return fmt.Errorf("%s: %w", call, err)
		}
		if len(b) > maxRequest {
			return fmt.Errorf("%s: %w: it takes %d bytes to say, and Cloud Hypervisor reads %d", call, hypervisor.ErrInvalid, len(b), maxRequest)
		}
	}
	_, err := c.call(ctx, "PUT", call, b, files)
	return err
}

// call makes one request and returns the body of its answer.
func (c *Client) call(ctx context.Context, method, call string, body []byte, files []*os.File) ([]byte, error) {
	a, err := c.http.Do(ctx, unixhttp.Request{Method: method, Path: "/api/v1/" + call, Body: body, Files: files})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", call, c.failed(ctx, err))
	}
	if a.Status < 200 || a.Status > 299 {
		return nil, refusal(call, a.Status, a.Body)
	}
	return a.Body, nil
}

// failed makes of what kept a call from its answer what the caller is told.
func (c *Client) failed(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, unixhttp.ErrClosed):
		return ErrClosed
	case errors.Is(err, unixhttp.ErrBusy):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("no answer from Cloud Hypervisor: %w", ctx.Err())
	case errors.Is(err, unixhttp.ErrProtocol):
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	case unixsock.Unserved(err):
		// The errno is not wrapped: a missing socket is not a missing file of anybody's.
		return fmt.Errorf("%w: nobody serves %s: %v", hypervisor.ErrHypervisorNotRunning, c.socket, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%w: it hung up without an answer", hypervisor.ErrHypervisorNotRunning)
	}
	return err
}
