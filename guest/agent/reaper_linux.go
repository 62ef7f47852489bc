package agent

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
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

// start starts a program. files become its descriptors 0, 1, 2, ….
func (r *reaper) start(argv []string, dir string, files []*os.File, sys *syscall.SysProcAttr) (*child, error) {
	return r.startPath(argv[0], argv, dir, files, sys)
}

// startPath is start for a program whose argv[0] is not its path.
func (r *reaper) startPath(path string, argv []string, dir string, files []*os.File, sys *syscall.SysProcAttr) (*child, error) {
	attr := &syscall.ProcAttr{Dir: dir, Env: environment(), Sys: sys}
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

// wait returns the exit status as a shell would count it: 128+N for signal N.
func (c *child) wait() int {
	<-c.done
	if c.stat.Signaled() {
		return 128 + int(c.stat.Signal())
	}
	return c.stat.ExitStatus()
}
