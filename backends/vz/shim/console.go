package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"vmfs/backends/serial"
	"vmfs/backends/vz/shimconfig"
	"vmfs/internal/unixsock"
	"vmfs/internal/wait"
)

// A console is the VM's serial port: two pipes of which the VM has the other ends.
type console struct {
	// in and out are the VM's ends, which go to its machine.
	in, out *os.File

	ctx     context.Context
	typed   *os.File
	printed *os.File
	clients *serial.Console
	log     *serial.Log
	l       *unixsock.Listener
	slog    *slog.Logger
}

// openConsole makes the pipes and the socket, and opens the log.
func openConsole(ctx context.Context, c shimconfig.Console, log *slog.Logger) (_ *console, err error) {
	s := &console{ctx: ctx, clients: serial.NewConsole(), slog: log}
	defer func() {
		if err != nil {
			s.close()
			err = fmt.Errorf("console: %w", err)
		}
	}()
	if s.log, err = serial.OpenSerialLog(c.Log, c.LogMax, log); err != nil {
		return nil, err
	}
	if s.in, s.typed, err = os.Pipe(); err != nil {
		return nil, err
	}
	if s.printed, s.out, err = os.Pipe(); err != nil {
		return nil, err
	}
	s.l, err = unixsock.Listen(ctx, c.Socket)
	return s, err
}

// run carries what is printed and typed until finish.
func (s *console) run() {
	var wg sync.WaitGroup
	wg.Go(func() { s.clients.Serve(s.ctx, s.l, s.take, s.slog) })
	b := make([]byte, 64<<10)
	for {
		n, err := s.printed.Read(b)
		if n > 0 {
			s.log.Append(b[:n])
			s.clients.Put(b[:n])
		}
		if err != nil {
			break
		}
	}
	<-s.ctx.Done() // a guest that has ended can be looked at
	s.clients.Close()
	wg.Wait()
}

// take gives the guest's port what was typed. It waits while the pipe is full.
func (s *console) take(ctx context.Context, b []byte) error {
	stop := wait.Interrupt(ctx, func() { _ = s.typed.SetWriteDeadline(time.Unix(1, 0)) })
	_, err := s.typed.Write(b)
	if stop() {
		return context.Cause(ctx)
	}
	if errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil // a port that nobody reads any more is the guest's end
}

// finish reads what the guest has printed last, and takes no more clients.
func (s *console) finish() {
	_ = s.printed.SetReadDeadline(time.Now().Add(lastWords))
	_ = s.l.Close() // what was ours is gone, or somebody else's
}

// close gives up the rest.
func (s *console) close() {
	for _, f := range []*os.File{s.typed, s.printed} {
		if f != nil {
			_ = f.Close() // what they carried has been looked at
		}
	}
	if s.l != nil {
		_ = s.l.Close()
	}
	if s.log != nil {
		s.log.Close()
	}
}
