package services

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vmfs/guest/internal/pty"
)

// Process is a started program.
type Process interface {
	Pid() int
	Done() <-chan struct{} // closed when it has ended
	Status() int           // its exit status, 128+N for signal N, once it has ended
}

// Starter starts a program with files as its descriptors 0, 1, 2.
type Starter interface {
	Start(path string, argv, env []string, dir string, files []*os.File, sys *syscall.SysProcAttr) (Process, error)
}

// Times of a program's end.
const (
	hangupGrace = 2 * time.Second        // between SIGHUP and SIGKILL
	quietTime   = 300 * time.Millisecond // children of an ended program hold its output open this long if silent
)

// Exit statuses of what could not be started, as shells have them.
const (
	statusNotRunnable = 126
	statusNotFound    = 127
)

// spec is a program to start.
type spec struct {
	args  []string
	env   []string
	dir   string
	tty   bool // on a terminal
	plain bool // …that does not echo
	rows  uint16
	cols  uint16
	merge bool // errors go where the output goes
}

// program is a running program and this side's ends of its descriptors.
type program struct {
	proc   Process
	stdin  *os.File   // with a terminal, the same file as the output
	output []*os.File // output, and errors if they are apart
	master *os.File   // of the terminal, or nil
	ended  atomic.Bool
}

// startError says why a program could not be started, and which status that is.
type startError struct {
	status int
	err    error
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// findProgram looks a program up as a shell does.
func findProgram(name string, env []string) (string, error) {
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		for _, kv := range env {
			if list, ok := strings.CutPrefix(kv, "PATH="); ok {
				candidates = nil
				for _, dir := range filepath.SplitList(list) {
					candidates = append(candidates, filepath.Join("/", dir, name))
				}
			}
		}
	}
	err := error(&startError{statusNotFound, errors.New("not found")})
	for _, path := range candidates {
		fi, serr := os.Stat(path)
		switch {
		case errors.Is(serr, fs.ErrNotExist):
		case serr != nil:
			err = &startError{statusNotRunnable, serr}
		case !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0:
			err = &startError{statusNotRunnable, errors.New("permission denied")}
		default:
			return path, nil
		}
	}
	return "", err
}

// startProgram starts a program in a session of its own.
func startProgram(s Starter, sp spec) (p *program, err error) {
	path, err := findProgram(sp.args[0], sp.env)
	if err != nil {
		return nil, err
	}
	if fi, err := os.Stat(sp.dir); err != nil {
		return nil, &startError{statusNotRunnable, err}
	} else if !fi.IsDir() {
		return nil, &startError{statusNotRunnable, fmt.Errorf("%s: %w", sp.dir, unix.ENOTDIR)}
	}
	var theirs []*os.File
	p = &program{}
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
		if err != nil {
			p.close()
		}
	}()
	sys := &syscall.SysProcAttr{Setsid: true}
	if sp.tty {
		master, slave, err := pty.Open(sp.rows, sp.cols)
		if err != nil {
			return nil, &startError{statusNotRunnable, err}
		}
		p.master, p.stdin, p.output = master, master, []*os.File{master}
		theirs = []*os.File{slave}
		if sp.plain {
			if err := pty.MakePlain(slave); err != nil {
				return nil, &startError{statusNotRunnable, err}
			}
		}
		sys.Setctty = true
	} else {
		for fd := range 3 {
			if fd == 2 && sp.merge {
				theirs = append(theirs, theirs[1])
				break
			}
			r, w, err := os.Pipe()
			if err != nil {
				return nil, &startError{statusNotRunnable, fmt.Errorf("pipe: %w", err)}
			}
			if fd == 0 {
				p.stdin, theirs = w, append(theirs, r)
			} else {
				p.output, theirs = append(p.output, r), append(theirs, w)
			}
		}
	}
	files := theirs
	if sp.tty {
		files = []*os.File{theirs[0], theirs[0], theirs[0]}
	}
	p.proc, err = s.Start(path, sp.args, sp.env, sp.dir, files, sys)
	if err != nil {
		return nil, &startError{statusNotRunnable, err}
	}
	return p, nil
}

func (p *program) close() {
	if p.stdin != nil {
		p.stdin.Close()
	}
	for _, f := range p.output {
		f.Close()
	}
}

// watch notes the program's end and wakes the pumps, which then wait for no more
// than silence. It returns at the end.
func (p *program) watch() {
	<-p.proc.Done()
	p.ended.Store(true)
	for _, f := range p.output {
		_ = f.SetReadDeadline(time.Now()) // pipes and terminals have deadlines
	}
}

// pump copies one output until it is over. Its error is the writer's.
func (p *program) pump(r *os.File, w io.Writer) error {
	buf := make([]byte, 32<<10)
	for {
		began, ended := time.Now(), p.ended.Load()
		if ended {
			_ = r.SetReadDeadline(began.Add(quietTime)) // see watch
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			continue
		}
		// A deadline that came early is the one of watch.
		if errors.Is(err, os.ErrDeadlineExceeded) && (!ended || time.Since(began) < quietTime) {
			continue
		}
		return nil // io.EOF, EIO of a terminal that all have closed, or silence
	}
}

// signal signals the program's process group.
func (p *program) signal(sig syscall.Signal) {
	select {
	case <-p.proc.Done():
	default:
		_ = unix.Kill(-p.proc.Pid(), sig) // an error is its end just now
	}
}

// hangUp ends the program for want of a peer.
func (p *program) hangUp() {
	p.signal(unix.SIGHUP)
	p.signal(unix.SIGCONT)
	select {
	case <-p.proc.Done():
	case <-time.After(hangupGrace):
		p.signal(unix.SIGKILL)
	}
}
