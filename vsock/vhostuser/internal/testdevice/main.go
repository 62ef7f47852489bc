// Command testdevice is the device as a process of its own, for tests that
// kill it: Main, and flags for its Config.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"vmfs/vsock/vhostuser"
)

func main() {
	var cfg vhostuser.Config
	flag.StringVar(&cfg.QEMUSocket, "qemu", "", "QEMU's chardev socket")
	flag.StringVar(&cfg.HostSocket, "host", "", "socket for the host's processes")
	flag.Int64Var(&cfg.CID, "cid", 3, "the guest's CID")
	debug := flag.Bool("debug", false, "log each stream")
	flag.Parse()
	level := slog.LevelInfo
	if *debug {
		level = slog.LevelDebug
	}
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := vhostuser.Main(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
