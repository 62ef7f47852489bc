// Package companion is the processes of vmfs's own that stand beside a VMM and outlive
// the server as the VMM does: it starts them, finds those that an earlier server
// started, keeps one beside its VMM, and ends them. What such a process does is its own
// package's (backends/qemu/vsockdev, backends/serial).
//
// The process is this very program, started again (see process.Main). Who it is says a
// lock that it holds, of which the kernel knows the holder, and not what it says of its
// pid, which in a pid namespace is another one.
//
// The package imports the standard library, backends/process and internal/wait.
package companion

import (
	"context"
	"errors"
	"os"
	"time"

	"vmfs/backends/process"
	"vmfs/internal/wait"
)

// A Companion is the process beside one VMM. It can be waited for and signalled.
type Companion struct {
	process.Process
	// Adopted tells whether it was found running instead of started.
	Adopted bool
}

// A Spec says which companion of which VM is meant.
type Spec struct {
	// Name is the first argument of its process, Args are the others.
	Name string
	Args []string
	// Files are inherited by a process that is started.
	Files []*os.File
	// Log is the file that its words are appended to.
	Log string
	// Holder returns the pid of the process that has the companion's lock, 0 if none
	// has.
	Holder func(ctx context.Context) (pid int, err error)
	// Served tells whether somebody serves the companion's socket. One whose socket
	// was removed is of no use any more.
	Served func(ctx context.Context) (bool, error)
}

// Start starts a companion. It does not wait until that is ready.
func (s Spec) Start(ctx context.Context) (*Companion, error) {
	child, err := process.Start(ctx, process.Command{Name: s.Name, Args: s.Args, Files: s.Files, Log: s.Log})
	if err != nil {
		return nil, err
	}
	return &Companion{Process: child.Process}, nil
}

// FindOrStart returns the companion that runs already, or starts one in the place of
// one that cannot be reached.
func (s Spec) FindOrStart(ctx context.Context) (*Companion, error) {
	p, err := s.Find(ctx)
	if err != nil {
		return nil, err
	}
	if !p.IsZero() {
		switch served, err := s.serves(ctx, p); {
		case err != nil:
			return nil, err
		case served:
			return &Companion{Process: p, Adopted: true}, nil
		}
		if err := (&Companion{Process: p}).End(ctx); err != nil {
			return nil, err
		}
	}
	return s.Start(ctx)
}

// serves tells whether the process that has the lock can be reached. One that has begun just
// now has the lock first.
func (s Spec) serves(ctx context.Context, p process.Process) (served bool, err error) {
	within, cancel := context.WithTimeout(ctx, begins)
	defer cancel()
	for {
		served, err = s.Served(ctx)
		if served || err != nil || !p.Alive() || wait.For(within, 10*time.Millisecond) != nil {
			return served, err
		}
	}
}

// Find returns the process that is the companion, the zero one if there is none.
func (s Spec) Find(ctx context.Context) (process.Process, error) {
	pid, err := s.Holder(ctx)
	if err == nil && pid != 0 {
		var p process.Process
		if p, err = process.Find(pid); err == nil {
			return p, nil
		}
	}
	if err == nil || errors.Is(err, process.ErrEnded) { // it did so just now
		return process.Process{}, nil
	}
	return process.Process{}, err
}

const (
	// begins is how long a companion may take to serve its socket once it has its lock.
	begins = 2 * time.Second
	// patience is how long it may take to end in good order.
	patience = time.Second
)

// End ends the companion, whether or not it can be reached, and waits for it. Where
// there is none it returns nil.
func (s Spec) End(ctx context.Context) error {
	p, err := s.Find(ctx)
	if err != nil {
		return err
	}
	return (&Companion{Process: p}).End(ctx)
}

// End ends the companion.
func (c *Companion) End(ctx context.Context) error { return c.Process.End(ctx, patience) }
