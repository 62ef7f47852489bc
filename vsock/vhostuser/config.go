package vhostuser

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"vmfs/internal/unixsock"
	"vmfs/vsock"
)

// The defaults of Config.
const (
	DefaultMaxStreams       = 1024
	DefaultMaxBuffered      = 24 << 20
	DefaultStreamBuffer     = 256 << 10
	DefaultConnectTimeout   = 30 * time.Second
	DefaultReconnectTimeout = time.Second
	DefaultHandshakeTimeout = 5 * time.Second
	DefaultRequestTimeout   = time.Minute
	DefaultLingerTimeout    = 8 * time.Second
)

// minStreamBuffer is the credit a stream is opened with. It grows while the
// stream is used, and shrinks when there are many.
const minStreamBuffer = 16 << 10

// Config says which VM a device is for. The first three fields are needed, the
// others have defaults.
type Config struct {
	// QEMUSocket is the Unix socket of QEMU's chardev, which must be
	// server=on: the device connects to it, and again when it is cut off.
	QEMUSocket string
	// CID is the guest's context id, 3..4294967294. It is known inside the VM
	// only: other VMs may have the same.
	CID int64
	// HostSocket is the Unix socket at which the device serves the host's
	// processes; the guest's connections to host port P go to the socket
	// named HostSocket_P.
	HostSocket string

	// StatePath is the file with the table of connections; the default is
	// HostSocket with ".state" added. It must survive the device's death and
	// may go with the VM. A lock on it keeps a second device out.
	StatePath string

	// MaxStreams bounds the streams at one time, those included whose
	// opening or closing is under way.
	MaxStreams int
	// MaxBuffered bounds the bytes kept for all host sockets that do not take
	// them, StreamBuffer those for one. A stream needs 16 KiB of it.
	MaxBuffered, StreamBuffer int

	// ConnectTimeout bounds the wait for QEMU's socket at the start,
	// ReconnectTimeout that after QEMU has hung up: a QEMU that is alive
	// takes a new connection at once.
	ConnectTimeout, ReconnectTimeout time.Duration
	// HandshakeTimeout bounds a host's process in writing its CONNECT line.
	HandshakeTimeout time.Duration
	// RequestTimeout bounds the guest in answering a request to connect. It
	// should be longer than any client's own limit, since its end looks like
	// a refusal.
	RequestTimeout time.Duration
	// LingerTimeout bounds the guest in confirming the end of a stream.
	LingerTimeout time.Duration

	// Logger gets what is worth knowing about the device, and at level debug
	// about each stream. The default is slog.Default().
	Logger *slog.Logger
}

// withDefaults returns cfg completed, or what is wrong with it.
func (cfg Config) withDefaults() (Config, error) {
	def(&cfg.MaxStreams, DefaultMaxStreams)
	def(&cfg.MaxBuffered, DefaultMaxBuffered)
	def(&cfg.StreamBuffer, DefaultStreamBuffer)
	def(&cfg.ConnectTimeout, DefaultConnectTimeout)
	def(&cfg.ReconnectTimeout, DefaultReconnectTimeout)
	def(&cfg.HandshakeTimeout, DefaultHandshakeTimeout)
	def(&cfg.RequestTimeout, DefaultRequestTimeout)
	def(&cfg.LingerTimeout, DefaultLingerTimeout)
	if cfg.StatePath == "" {
		cfg.StatePath = statePath(cfg.HostSocket)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}

	var errs []error
	if cfg.CID < 3 || cfg.CID > 1<<32-2 {
		errs = append(errs, fmt.Errorf("bad CID %d: want 3..%d", cfg.CID, uint32(1<<32-2)))
	}
	if err := unixsock.CheckPath(cfg.QEMUSocket); err != nil {
		errs = append(errs, fmt.Errorf("QEMU's socket: %w", err))
	}
	if err := unixsock.CheckPath(cfg.HostSocket); err != nil {
		errs = append(errs, fmt.Errorf("host socket: %w", err))
	} else if err := unixsock.CheckPath(vsock.ListenPath(cfg.HostSocket, vsock.MaxPort)); err != nil {
		errs = append(errs, fmt.Errorf("host socket, with _ and a port added for the guest's connections: %w", err))
	}
	if cfg.MaxStreams < 1 || cfg.MaxStreams > 1<<16 {
		errs = append(errs, fmt.Errorf("bad limit of %d streams: want 1..%d", cfg.MaxStreams, 1<<16))
	}
	if cfg.StreamBuffer < minStreamBuffer || cfg.StreamBuffer > 1<<30 {
		errs = append(errs, fmt.Errorf("bad buffer of %d bytes a stream: want %d..%d", cfg.StreamBuffer, minStreamBuffer, 1<<30))
	}
	if cfg.MaxBuffered < minStreamBuffer || cfg.MaxBuffered > 1<<30 {
		errs = append(errs, fmt.Errorf("bad buffer of %d bytes in all: want %d..%d", cfg.MaxBuffered, minStreamBuffer, 1<<30))
	}
	return cfg, errors.Join(errs...)
}

// statePath is the default of StatePath.
func statePath(hostSocket string) string { return hostSocket + ".state" }

func def[T int | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}
