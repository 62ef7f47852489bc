package serial

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"vmfs/internal/durable"
)

// command is the process, with its configuration as a command line. It logs to standard
// error, and returns the exit status.
func command(args []string) int {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	var c Config
	flags.StringVar(&c.VMM, "vmm", "", "`socket` of the VMM's serial port")
	flags.BoolVar(&c.Stuck, "stuck", false, "the VMM keeps what did not fit until the guest says more")
	flags.StringVar(&c.Console, "console", "", "`socket` to serve the console at")
	flags.StringVar(&c.Output, "output", "", "`FIFO` with the VMM's words")
	flags.StringVar(&c.SerialLog, "serial-log", "", "`file` for the output of the serial port")
	flags.Int64Var(&c.SerialLogMax, "serial-log-max", 0, "`bytes` that it may have")
	flags.StringVar(&c.Log, "log", "", "`file` for the VMM's words")
	flags.Int64Var(&c.LogMax, "log-max", 0, "`bytes` that it may have")
	if flags.Parse(args) != nil {
		return 2 // it has said why
	}
	log := slog.New(slog.NewTextHandler(durable.Bounded{File: os.Stderr, Most: 2 * LogMax}, nil)).With("process", "serial", "pid", os.Getpid())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	// It is to be small: there is little to do, and next to nothing on the heap.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(25)
	debug.FreeOSMemory() // what the program's start has left behind
	if err := run(ctx, c, log); err != nil && !(ctx.Err() != nil && errors.Is(err, context.Cause(ctx))) {
		log.Error("the console's process ends", "err", err)
		return 1
	}
	return 0
}
