package client_test

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"vmfs/client"
)

// A VM is made, started, watched and removed.
func Example() {
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	addr, stop, err := serve(dir) // stands for "unix!/run/vmfs/vmfs.sock"
	if err != nil {
		log.Fatal(err)
	}
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, addr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	if err := c.Mkdir(ctx, "web", 0o700); err != nil {
		log.Fatal(err)
	}
	events, err := c.Open(ctx, "web/events", os.O_RDONLY)
	if err != nil {
		log.Fatal(err)
	}
	lines := bufio.NewScanner(events.With(ctx))
	if err := c.Command(ctx, "web", "start"); err != nil {
		log.Fatal(err)
	}
	state, err := c.Wait(ctx, "web", "running")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(state, lines.Scan())

	// A command that fails says why.
	fmt.Println(c.Rmdir(ctx, "web"))

	if err := c.Command(ctx, "web", "kill"); err != nil {
		log.Fatal(err)
	}
	if err := c.Rmdir(ctx, "web"); err != nil {
		log.Fatal(err)
	}
	// Output:
	// running true
	// machine: delete web: web is running: stop it first
}
