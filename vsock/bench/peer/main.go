// Command peer is what runs in guests for the benchmark of vsock streams: in the
// guest that is measured it serves the streams, and in one that has mounted the
// tree it measures them.
//
//	peer serve               on vsock and TCP ports
//	peer files DIR           measures by DIR/vsock, and prints figures
//	peer socket HOST:PORT    measures by a device's socket, led here by TCP
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"

	mdvsock "github.com/mdlayher/vsock"

	"vmfs/vsock/bench"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serve()
	case len(args) == 2 && args[0] == "files":
		return measure("files", bench.Files{Dir: args[1]})
	case len(args) == 2 && args[0] == "socket":
		return measure("socket", bench.Hybrid{Dial: func() (net.Conn, error) { return net.Dial("tcp", args[1]) }})
	}
	return fmt.Errorf("usage: peer serve | files DIR | socket HOST:PORT")
}

func serve() error {
	const anyCID = 1<<32 - 1
	for _, listen := range []bench.Listen{
		func(port int) (net.Listener, error) { return mdvsock.ListenContextID(anyCID, uint32(port), nil) },
		func(port int) (net.Listener, error) { return net.Listen("tcp", ":"+strconv.Itoa(port)) },
	} {
		if err := bench.Serve(listen); err != nil {
			return err
		}
	}
	select {}
}

// measure prints a line of JSON for each figure: fewer of them than on the host,
// since everything is emulated here.
func measure(name string, w bench.Way) error {
	out := json.NewEncoder(os.Stdout)
	for _, streams := range []int{1, 64} {
		for _, f := range []func() (bench.Figure, error){
			func() (bench.Figure, error) { return bench.Transfer(w, bench.ToGuest, streams, 64<<20) },
			func() (bench.Figure, error) { return bench.Transfer(w, bench.FromGuest, streams, 64<<20) },
			func() (bench.Figure, error) { return bench.RoundTrips(w, streams, 1000) },
			func() (bench.Figure, error) { return bench.Connects(w, streams, 500) },
		} {
			fig, err := f()
			if err != nil {
				return fmt.Errorf("%s, %d streams: %w", name, streams, err)
			}
			if err := out.Encode(map[string]any{"way": name, "figure": fig}); err != nil {
				return err
			}
		}
	}
	return nil
}
