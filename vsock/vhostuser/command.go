package vhostuser

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"vmfs/internal/durable"
)

// maxLog bounds the log that the device appends to: its guest can make it say as much as
// it likes.
const maxLog = 2 << 20

// Command is Main with its configuration as a command line: --qemu SOCKET --socket
// SOCKET --cid N. It logs to standard error, and returns the exit status.
func Command(args []string) int {
	level := slog.LevelInfo
	flags := flag.NewFlagSet("vsock-device", flag.ContinueOnError)
	var cfg Config
	flags.StringVar(&cfg.QEMUSocket, "qemu", "", "`socket` of QEMU's chardev")
	flags.StringVar(&cfg.HostSocket, "socket", "", "`socket` to serve the host's programs at")
	flags.Int64Var(&cfg.CID, "cid", 0, "the guest's context `ID`")
	flags.TextVar(&level, "log", level, "the least `level` of what is logged")
	if flags.Parse(args) != nil {
		return 2 // it has said why
	}
	cfg.Logger = slog.New(slog.NewTextHandler(durable.Bounded{File: os.Stderr, Most: maxLog}, &slog.HandlerOptions{Level: level})).With("process", "vsock-device", "pid", os.Getpid())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := Main(ctx, cfg); err != nil {
		cfg.Logger.Error("the device ends", "err", err)
		return 1
	}
	return 0
}
