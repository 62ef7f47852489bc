package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"vmfs/guest/control"
	"vmfs/guest/exec"
	"vmfs/guest/services"
)

// startServices listens on the service ports.
//
// The address is "any": such a listener needs no device to be there yet, and
// lives on when the device gets another context id, as after a restore.
func (a *agent) startServices() {
	x := &services.Exec{Starter: a.kids, Env: environment(), Dir: "/root"}
	srv := &services.Server{Logf: func(format string, args ...any) { a.con.printf("vmfs guest: "+format, args...) }}
	for _, s := range []struct {
		port uint32
		h    services.Handler
	}{
		{7, services.Echo}, {9, services.Discard}, {13, services.Daytime}, {19, services.Chargen},
		{exec.PlainPort, x.Plain}, {exec.FramedPort, x.Framed}, {control.Port, a.control().Serve},
	} {
		ln, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, s.port, nil)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			a.con.printf("vmfs guest: no vsock services: the kernel has no vsock, and its module is not in the image")
			return
		}
		if err != nil {
			a.con.printf("vmfs guest: vsock port %d: %v", s.port, err)
			continue
		}
		srv.Serve(ln, s.h)
	}
}

// toolName is the name by which the agent's program is the vsock tool.
const toolName = "vsock"

const toolUsage = `usage: vsock dial [CID:]PORT
Connects standard input and output to a vsock port, of the host unless a context
id is given. The end of a direction closes that direction only; it is over when
both have ended, or the other side is gone.
`

// vsockTool is /bin/vsock in the guest.
func vsockTool(args []string) (status int) {
	if len(args) != 2 || args[0] != "dial" {
		fmt.Fprint(os.Stderr, toolUsage)
		return 2
	}
	cid, port, err := parseVsockAddr(args[1])
	if err != nil {
		fmt.Fprintf(os.Stderr, "vsock: %v\n", err)
		return 2
	}
	c, err := vsock.DialContext(context.Background(), cid, port, nil)
	if err != nil {
		fmt.Fprintf(os.Stderr, "vsock: %v\n", err)
		return 1
	}
	defer c.Close()
	if err := join(c, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "vsock: %s: %v\n", args[1], err)
		return 1
	}
	return 0
}

// parseVsockAddr reads [CID:]PORT.
func parseVsockAddr(s string) (cid, port uint32, err error) {
	cid = unix.VMADDR_CID_HOST
	p := s
	if c, rest, ok := strings.Cut(s, ":"); ok {
		v, err := strconv.ParseUint(c, 10, 32)
		if err != nil {
			return 0, 0, fmt.Errorf("%q is not a context ID", c)
		}
		cid, p = uint32(v), rest
	}
	v, err := strconv.ParseUint(p, 10, 32)
	if err != nil || v == unix.VMADDR_PORT_ANY {
		return 0, 0, fmt.Errorf("%q is not a port", p)
	}
	return cid, uint32(v), nil
}
