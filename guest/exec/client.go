package exec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"vmfs/internal/printable"
)

// Command is a program to run in a guest.
type Command struct {
	Args []string // Args[0] is looked up in the guest's PATH unless it has a slash
	Env  []string // KEY=VALUE, added to the guest's usual ones
	Dir  string   // "" is /root

	TTY     *Size        // run it on a terminal of this size; Stderr is then not used
	Resize  <-chan Size  // new sizes of the terminal; may be nil
	Signals <-chan uint8 // numbers of signals for the process group; may be nil

	Stdin          io.Reader // nil is an empty input
	Stdout, Stderr io.Writer // nil drops
}

// StartError says why the guest could not start a program.
type StartError struct {
	Program string
	Reason  string // the guest's words, made printable
	Status  int    // 127: not found, 126: found but not runnable
}

func (e *StartError) Error() string { return fmt.Sprintf("guest: run %s: %s", e.Program, e.Reason) }

// Run runs the command over a stream to the guest's FramedPort, which it closes,
// and returns the exit status, which is 128+N for signal N.
//
// If ctx ends first the stream is closed, on which the guest ends the program;
// closing it must wake what reads and writes it. Run does not wait for a Read of
// Stdin under way, as nothing can wake one of a terminal; what it yields is lost.
func Run(ctx context.Context, stream io.ReadWriteCloser, c Command) (status int, err error) {
	if len(c.Args) == 0 || c.Args[0] == "" {
		stream.Close()
		return 0, errors.New("guest: run: no program given")
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		<-ctx.Done()
		stream.Close()
	})

	s := &session{ctx: ctx, w: NewWriter(stream), credit: make(chan int, 1)}
	s.credit <- Window
	if err := s.w.Start(Start{Version: Version, Args: c.Args, Env: c.Env, Dir: c.Dir, TTY: c.TTY}); err != nil {
		return 0, s.lost(c, err)
	}
	go s.sendStdin(c.Stdin) // not waited for: see above
	wg.Go(func() { s.sendControl(c) })
	status, err = s.receive(NewReader(stream), c)
	if err != nil {
		return 0, s.lost(c, err)
	}
	return status, nil
}

// session is one run.
type session struct {
	ctx    context.Context
	w      *Writer
	credit chan int // holds the input that may still be sent, if that is not 0
}

// lost words the error of a run that did not come to its end.
func (s *session) lost(c Command, err error) error {
	var start *StartError
	if errors.As(err, &start) {
		return err
	}
	if s.ctx.Err() != nil {
		err = context.Cause(s.ctx)
	} else if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("guest: run %s: its exit status is unknown: %w", c.Args[0], err)
}

// sendStdin sends the input as the guest takes it. Errors need no notice here:
// receive, on the same stream, meets them too.
func (s *session) sendStdin(r io.Reader) {
	buf := make([]byte, 32<<10)
	for r != nil {
		var credit int
		select {
		case credit = <-s.credit:
		case <-s.ctx.Done():
			return
		}
		n, err := r.Read(buf[:min(len(buf), credit)])
		if s.ctx.Err() != nil {
			return
		}
		s.grant(credit - n)
		if n > 0 && s.w.Frame(TypeStdin, buf[:n]) != nil {
			return
		}
		if err != nil {
			break // an input that fails is over
		}
	}
	_ = s.w.Frame(TypeStdinEnd, nil)
}

// grant adds to the input that may be sent.
func (s *session) grant(n int) {
	for n > 0 {
		select {
		case s.credit <- n:
			return
		case more := <-s.credit:
			n += more
		}
	}
}

// sendControl sends sizes and signals until the run is over.
func (s *session) sendControl(c Command) {
	for {
		var err error
		select {
		case <-s.ctx.Done():
			return
		case size, ok := <-c.Resize:
			if !ok {
				c.Resize = nil
				continue
			}
			err = s.w.Size(size)
		case sig, ok := <-c.Signals:
			if !ok {
				c.Signals = nil
				continue
			}
			err = s.w.Frame(TypeSignal, []byte{sig})
		}
		if err != nil {
			return // receive meets it too
		}
	}
}

// receive takes what the guest sends until the end.
func (s *session) receive(r *Reader, c Command) (status int, err error) {
	var failed *StartError
	for {
		t, payload, err := r.Frame()
		if err != nil {
			return 0, err
		}
		switch t {
		case TypeStdout:
			err = deliver(c.Stdout, payload)
		case TypeStderr:
			err = deliver(c.Stderr, payload)
		case TypeAck:
			var n int
			if n, err = ParseAck(payload); err == nil {
				s.grant(n)
			}
		case TypeFailed:
			failed = &StartError{Program: c.Args[0], Reason: printable.Line(string(payload))}
		case TypeExit:
			code, err := ParseByte(payload)
			if err != nil {
				return 0, err
			}
			if failed != nil {
				failed.Status = int(code)
				return 0, failed
			}
			return int(code), nil
		default:
			err = fmt.Errorf("%w: a frame of type %q", ErrProtocol, byte(t))
		}
		if err != nil {
			return 0, err
		}
	}
}

func deliver(w io.Writer, b []byte) error {
	if w == nil {
		return nil
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("deliver output: %w", err)
	}
	return nil
}
