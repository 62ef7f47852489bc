package agent

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"vmfs/guest/services"
)

// reaper starts children and waits for every process that ends: its own and the
// orphans that process 1 inherits. os/exec cannot be used beside it, as each
// would take the other's children.
type reaper struct {
	mu   sync.Mutex // guards kids; held over fork and wait, so that no child ends unknown
	kids map[int]*child

	sigchld chan os.Signal
}

// child is a process that the agent started.
type child struct {
	pid  int
	done chan struct{} // closed once status is set
	stat syscall.WaitStatus
}

func newReaper() *reaper {
	r := &reaper{kids: map[int]*child{}, sigchld: make(chan os.Signal, 1)}
	signal.Notify(r.sigchld, syscall.SIGCHLD)
	return r
}

// run reaps for ever.
func (r *reaper) run() {
	for range r.sigchld {
		r.reap()
	}
}

// reap waits for all that have ended and reports whether there are children left.
func (r *reaper) reap() (left bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil: // ECHILD
			return false
		case pid == 0:
			return true
		default:
			if c := r.kids[pid]; c != nil {
				delete(r.kids, pid)
				c.stat = ws
				close(c.done)
			}
		}
	}
}

// start starts a program with files as its descriptors 0, 1, 2, ….
func (r *reaper) start(path string, argv, env []string, dir string, files []*os.File, sys *syscall.SysProcAttr) (*child, error) {
	attr := &syscall.ProcAttr{Dir: dir, Env: env, Sys: sys}
	for _, f := range files {
		attr.Files = append(attr.Files, f.Fd())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	c := &child{pid: pid, done: make(chan struct{})}
	r.kids[pid] = c
	return c, nil
}

// Start is start in the words of package services.
func (r *reaper) Start(path string, argv, env []string, dir string, files []*os.File, sys *syscall.SysProcAttr) (services.Process, error) {
	c, err := r.start(path, argv, env, dir, files, sys)
	if err != nil {
		return nil, err // not a nil *child in an interface
	}
	return c, nil
}

var _ services.Starter = (*reaper)(nil)

func (c *child) Pid() int              { return c.pid }
func (c *child) Done() <-chan struct{} { return c.done }

// Status returns the exit status as a shell would count it, 128+N for signal N.
// It is to be called after the end.
func (c *child) Status() int {
	if c.stat.Signaled() {
		return 128 + int(c.stat.Signal())
	}
	return c.stat.ExitStatus()
}

// wait waits for the end.
func (c *child) wait() int {
	<-c.done
	return c.Status()
}
