package vhostuser

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"vmfs/internal/unixsock"
	"vmfs/vsock"
)

// Besides "CONNECT port", the device takes two more lines at its socket.
const (
	cmdConnect = "CONNECT "
	cmdStatus  = "STATUS"
	cmdReset   = "RESET"
)

// Status is what a device tells about itself.
type Status struct {
	CID int64 `json:"cid"`
	// Since is when the process started serving.
	Since time.Time `json:"since"`
	// QEMU says whether QEMU is connected.
	QEMU bool `json:"qemu"`
	// Running says whether the rings are: false while the VM is stopped,
	// before the guest's driver has started, and in a device that took over
	// from a dead one until QEMU has had its stop and cont.
	Running bool `json:"running"`
	// Streams is the number of streams, Buffered the bytes that wait for host
	// sockets to take them.
	Streams  int `json:"streams"`
	Buffered int `json:"buffered"`
	// ToGuest and ToHost count bytes, Opened and Refused streams.
	ToGuest uint64 `json:"to_guest"`
	ToHost  uint64 `json:"to_host"`
	Opened  uint64 `json:"opened"`
	Refused uint64 `json:"refused"`
	// GuestResets counts the times the guest's driver started anew.
	GuestResets uint64 `json:"guest_resets"`
	// LostStreams is how many streams of a dead predecessor were reset.
	LostStreams int `json:"lost_streams"`
	// Rounds counts how often the device woke up or went on: while there is
	// nothing to do it stands still.
	Rounds uint64 `json:"rounds"`
	// Fault is why the rings do not run when the guest has broken them.
	Fault string `json:"fault,omitempty"`
}

// GetStatus asks the device that serves hostSocket. If nobody does, the error
// wraps vsock.ErrUnavailable.
func GetStatus(ctx context.Context, hostSocket string) (Status, error) {
	var st Status
	line, err := command(ctx, hostSocket, cmdStatus)
	if err == nil {
		if jerr := json.Unmarshal([]byte(line), &st); jerr != nil {
			err = fmt.Errorf("%w: %w", vsock.ErrProtocol, jerr)
		}
	}
	if err != nil {
		return st, fmt.Errorf("vsock device: status by %s: %w", hostSocket, err)
	}
	return st, nil
}

// Reset tells the device that serves hostSocket that the VM was reset, or that
// the device was taken out of it: its streams end at once and not only when
// the guest's driver starts anew. While the rings run it does nothing, since
// then the device has seen the new driver itself. It returns the number of
// streams ended.
func Reset(ctx context.Context, hostSocket string) (int, error) {
	var n int
	line, err := command(ctx, hostSocket, cmdReset)
	if err == nil {
		if _, serr := fmt.Sscanf(line, "OK %d", &n); serr != nil {
			err = fmt.Errorf("%w: answer %q", vsock.ErrProtocol, line)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("vsock device: reset by %s: %w", hostSocket, err)
	}
	return n, nil
}

// maxAnswer bounds an answer in bytes: the device believes nothing of its guest, and the
// server nothing of the device.
const maxAnswer = 1 << 20

// command writes one line and reads one.
func command(ctx context.Context, hostSocket, cmd string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, vsock.DefaultTimeout)
	defer cancel()
	c, err := unixsock.Dial(ctx, hostSocket)
	if unixsock.Unserved(err) {
		return "", fmt.Errorf("%w: %v", vsock.ErrUnavailable, err)
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if _, err = io.WriteString(c, cmd+"\n"); err == nil {
		var line string
		if line, err = bufio.NewReader(io.LimitReader(c, maxAnswer)).ReadString('\n'); err == nil {
			return strings.TrimSuffix(line, "\n"), nil
		}
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) {
		return "", fmt.Errorf("%w: it hung up without an answer to %s", vsock.ErrProtocol, cmd)
	}
	return "", err
}
