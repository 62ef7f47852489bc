//go:build !unix

package dial

import (
	"context"
	"errors"
	"net"
)

func listenUnix(context.Context, string) (net.Listener, error) {
	return nil, errors.New("no Unix sockets of mode 0600 on this system")
}
