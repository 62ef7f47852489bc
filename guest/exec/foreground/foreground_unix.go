//go:build unix

// Package foreground runs a program in a guest as if it ran in this process's place: it
// gets this process's signals and, if wanted, a terminal like that of its standard input.
//
// The package imports guest/exec and golang.org/x/term.
package foreground

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/term"

	"vmfs/guest/exec"
)

// Run is exec.Run with SIGINT, SIGTERM, SIGHUP and SIGQUIT passed on to the program; the
// third one ends the run. With tty the program gets a terminal, of the size of this
// one, and that is raw meanwhile, if the command's input is one.
func Run(ctx context.Context, stream io.ReadWriteCloser, command exec.Command, tty bool) (status int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	over := make(chan struct{})
	defer close(over)
	if tty {
		restore, follow := terminal(&command)
		defer restore()
		wg.Go(func() { follow(over) })
	}
	got := make(chan os.Signal, 8)
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(got)
	signals := make(chan uint8)
	command.Signals = signals
	wg.Go(func() { passSignals(got, signals, over, cancel) })
	return exec.Run(ctx, stream, command)
}

// abandonAfter is the signal that is not passed on any more.
const abandonAfter = 3

// passSignals sends signals to the program, and ends the run when they do not help.
func passSignals(got <-chan os.Signal, signals chan<- uint8, over <-chan struct{}, cancel context.CancelCauseFunc) {
	for n := 1; ; n++ {
		select {
		case sig := <-got:
			if n == abandonAfter {
				cancel(fmt.Errorf("given up by signal: %v", sig))
				return
			}
			select {
			case signals <- uint8(sig.(syscall.Signal)):
			case <-over:
				return
			}
		case <-over:
			return
		}
	}
}

// terminal makes the program's terminal one like that of the standard input, and
// that raw, if there is one. The caller calls follow, which passes on changes of
// its size, and restore at the end.
func terminal(c *exec.Command) (restore func(), follow func(over <-chan struct{})) {
	c.TTY = &exec.Size{Rows: 24, Cols: 80}
	none := func(<-chan struct{}) {}
	fd := int(os.Stdin.Fd())
	if c.Stdin != os.Stdin || !term.IsTerminal(fd) {
		return func() {}, none
	}
	if size, ok := sizeOf(fd); ok {
		*c.TTY = size
	}
	before, err := term.MakeRaw(fd)
	if err != nil {
		return func() {}, none
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	sizes := make(chan exec.Size)
	c.Resize = sizes
	follow = func(over <-chan struct{}) {
		for {
			select {
			case <-resized:
			case <-over:
				return
			}
			size, ok := sizeOf(fd)
			if !ok {
				continue
			}
			select {
			case sizes <- size:
			case <-over:
				return
			}
		}
	}
	return func() {
		signal.Stop(resized)
		_ = term.Restore(fd, before) // nothing to be done about it
	}, follow
}

func sizeOf(fd int) (exec.Size, bool) {
	cols, rows, err := term.GetSize(fd)
	return exec.Size{Rows: uint16(rows), Cols: uint16(cols)}, err == nil
}
