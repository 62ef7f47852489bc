package services

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"vmfs/guest/exec"
	"vmfs/guest/internal/pty"
)

// Exec runs programs for peers.
type Exec struct {
	Starter Starter
	Env     []string // of every program; PATH in it finds them
	Dir     string   // where they start
}

// maxLine bounds the plain service's command line.
const maxLine = 64 << 10

// endOfInput is what ends the input of a program on a terminal: a terminal's end
// of file, for the program and for the shell that may have started it.
const endOfInput = "\x04\x04"

// Plain serves port 1024, as the package comment describes it.
func (x *Exec) Plain(c net.Conn) {
	in := bufio.NewReaderSize(c, maxLine)
	raw, err := in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		fmt.Fprintf(c, "vmfs guest: the command line is longer than %d bytes\nstatus %d\n", maxLine, statusNotRunnable)
		return
	case err != nil && (len(raw) == 0 || !errors.Is(err, io.EOF)):
		return // a peer that wanted nothing
	}
	line, quiet := strings.CutPrefix(strings.TrimRight(string(raw), "\r\n"), "-")
	sp := spec{args: []string{"/bin/sh", "-c", line}, env: x.Env, dir: x.Dir, merge: true}
	if line == "" {
		sp.args, sp.tty, sp.plain, sp.rows, sp.cols = []string{"/bin/sh", "-i"}, true, true, 24, 80
	}

	out := &lastByte{w: c, last: '\n'}
	status := x.runPlain(c, in, out, sp)
	if quiet {
		return
	}
	if out.last != '\n' {
		fmt.Fprintln(c)
	}
	fmt.Fprintf(c, "status %d\n", status)
}

func (x *Exec) runPlain(c net.Conn, in io.Reader, out io.Writer, sp spec) (status int) {
	p, err := startProgram(x.Starter, sp)
	if err != nil {
		fmt.Fprintf(out, "vmfs guest: %s: %v\n", sp.args[0], err)
		return statusOf(err)
	}
	defer p.close()
	var wg sync.WaitGroup
	wg.Go(p.watch)
	wg.Go(func() {
		_, err := io.Copy(p.stdin, in)
		switch {
		case err != nil: // the program's end, or a stream that broke
		case p.master != nil:
			_, _ = io.WriteString(p.master, endOfInput) // an error is its end
		default:
			p.stdin.Close()
		}
	})
	if p.pump(p.output[0], out) != nil {
		p.hangUp()
	}
	<-p.proc.Done()
	if p.master == nil {
		p.stdin.Close() // ends a write of input
	} else {
		_ = p.master.SetWriteDeadline(time.Now())
	}
	interrupt(c)
	wg.Wait()
	return p.proc.Status()
}

// interrupt wakes a reader of the stream, for good: finish sets another deadline.
func interrupt(c net.Conn) { _ = c.SetReadDeadline(time.Now()) }

func statusOf(err error) int {
	var se *startError
	if errors.As(err, &se) {
		return se.status
	}
	return statusNotRunnable
}

// lastByte remembers what was written last.
type lastByte struct {
	w    io.Writer
	last byte
}

func (l *lastByte) Write(b []byte) (int, error) {
	if len(b) > 0 {
		l.last = b[len(b)-1]
	}
	return l.w.Write(b)
}

// Framed serves port 1025, the protocol of package exec.
func (x *Exec) Framed(c net.Conn) {
	r, w := exec.NewReader(c), exec.NewWriter(c)
	t, payload, err := r.Frame()
	if errors.Is(err, io.EOF) {
		return
	}
	if err == nil && t != exec.TypeStart {
		err = fmt.Errorf("%w: the first frame is of type %q", exec.ErrProtocol, byte(t))
	}
	var start exec.Start
	if err == nil {
		start, err = exec.ParseStart(payload)
	}
	if err != nil {
		fail(w, err)
		return
	}
	sp := spec{args: start.Args, env: append(append([]string{}, x.Env...), start.Env...), dir: x.Dir}
	if start.Dir != "" {
		sp.dir = start.Dir
	}
	if start.TTY != nil {
		sp.tty, sp.rows, sp.cols = true, start.TTY.Rows, start.TTY.Cols
	}
	p, err := startProgram(x.Starter, sp)
	if err != nil {
		fail(w, err)
		return
	}
	defer p.close()
	f := &framed{p: p, w: w}
	f.input.wake = make(chan struct{}, 1)
	var wg sync.WaitGroup
	wg.Go(p.watch)
	wg.Go(f.feed)
	wg.Go(func() {
		f.receive(r)
		p.hangUp() // does nothing to one that has ended
	})

	var pumps sync.WaitGroup
	for i, out := range p.output {
		kind := []exec.Type{exec.TypeStdout, exec.TypeStderr}[i]
		pumps.Go(func() {
			if p.pump(out, frameWriter{w, kind}) != nil {
				p.hangUp()
			}
		})
	}
	pumps.Wait()
	<-p.proc.Done()
	f.input.end(true)
	if p.master == nil {
		p.stdin.Close()
	} else {
		_ = p.master.SetWriteDeadline(time.Now())
	}
	interrupt(c)
	wg.Wait()
	_ = w.Frame(exec.TypeExit, []byte{byte(p.proc.Status())}) // a peer that is gone needs none
}

// fail tells the peer why there is no program.
func fail(w *exec.Writer, err error) {
	if w.Frame(exec.TypeFailed, []byte(err.Error())) == nil {
		_ = w.Frame(exec.TypeExit, []byte{byte(statusOf(err))})
	}
}

// frameWriter makes frames of what is written.
type frameWriter struct {
	w    *exec.Writer
	kind exec.Type
}

func (f frameWriter) Write(b []byte) (int, error) { return len(b), f.w.Frame(f.kind, b) }

// framed is one run of the framed service.
type framed struct {
	p     *program
	w     *exec.Writer
	input inputQueue
}

// receive takes the peer's frames until the stream ends or is interrupted, or the
// peer breaks the protocol.
func (f *framed) receive(r *exec.Reader) {
	for {
		t, payload, err := r.Frame()
		if err != nil {
			return
		}
		switch t {
		case exec.TypeStdin:
			err = f.input.add(payload)
		case exec.TypeStdinEnd:
			f.input.end(false)
		case exec.TypeSize:
			var size exec.Size
			if size, err = exec.ParseSize(payload); err == nil && f.p.master != nil {
				err = pty.SetSize(f.p.master, size.Rows, size.Cols)
			}
		case exec.TypeSignal:
			var sig byte
			if sig, err = exec.ParseByte(payload); err == nil {
				f.p.signal(syscall.Signal(sig))
			}
		default:
			err = fmt.Errorf("%w: a frame of type %q", exec.ErrProtocol, byte(t))
		}
		if err != nil {
			return
		}
	}
}

// feed gives the program its input and acknowledges what is gone, be it that the
// program does not want it.
func (f *framed) feed() {
	for {
		b, more := f.input.take()
		if len(b) > 0 {
			_, _ = f.p.stdin.Write(b) // an error is a program that takes no more
			f.input.done(len(b))
			if f.w.Ack(len(b)) != nil {
				return // receive meets it too
			}
		}
		if !more {
			break
		}
	}
	switch {
	case f.p.master != nil:
		_, _ = io.WriteString(f.p.master, endOfInput) // an error is its end
	default:
		f.p.stdin.Close()
	}
}

// inputQueue holds the peer's input until the program takes it, at most a window.
type inputQueue struct {
	wake chan struct{} // holds a token when there is something to take

	mu      sync.Mutex // guards the rest
	held    []byte
	unacked int // held, or taken and not done with
	over    bool
}

// add adds input. A peer that sends more than its window is in breach.
func (q *inputQueue) add(b []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.over {
		return nil // input behind its end is lost
	}
	if q.unacked+len(b) > exec.Window {
		return fmt.Errorf("%w: more input than the window", exec.ErrProtocol)
	}
	q.held = append(q.held, b...)
	q.unacked += len(b)
	q.signal()
	return nil
}

// end ends the input, dropping what is held if so told.
func (q *inputQueue) end(drop bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.over = true
	if drop {
		q.held = nil
	}
	q.signal()
}

func (q *inputQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// done gives room for n bytes that were taken. It comes before their
// acknowledgement, as that lets the peer send as many.
func (q *inputQueue) done(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unacked -= n
}

// take waits for input and returns some, and whether there may be more.
func (q *inputQueue) take() (b []byte, more bool) {
	const most = 32 << 10
	for {
		q.mu.Lock()
		if len(q.held) > 0 {
			n := min(most, len(q.held))
			b, q.held = q.held[:n:n], q.held[n:]
			more = len(q.held) > 0 || !q.over
			q.mu.Unlock()
			return b, more
		}
		over := q.over
		q.mu.Unlock()
		if over {
			return nil, false
		}
		<-q.wake
	}
}
