package hypervisor

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
)

// A ClientFactory makes a handle on the VM whose VMM serves socketPath. It
// connects, and so fails with ErrHypervisorNotRunning where nobody serves it.
type ClientFactory func(socketPath string) (Hypervisor, error)

// A VsockDialer opens streams into one guest.
type VsockDialer interface {
	// DialVsock connects to the guest's port, 1..4294967294.
	DialVsock(ctx context.Context, port int) (net.Conn, error)
	// Key is equal for two dialers exactly if they lead to the same guest.
	Key() string
}

// A VsockDialerFactory makes a dialer from the vsock part of a VMConfig.
type VsockDialerFactory func(vsockSocket string, vsockCID int64) VsockDialer

// registry holds what back ends have registered. Back ends are registered by
// the program that links them, before it uses any.
var registry struct {
	mu          sync.RWMutex // guards the maps
	clients     map[Type]ClientFactory
	socketNames map[Type]string
	dialers     map[Type]VsockDialerFactory
	starters    map[Type]VMStarter
}

func register[V any](m *map[Type]V, t Type, v V) {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	if *m == nil {
		*m = make(map[Type]V)
	}
	(*m)[t] = v
}

func registered[V any](m *map[Type]V, t Type) (V, bool) {
	registry.mu.RLock()
	defer registry.mu.RUnlock()
	v, ok := (*m)[t]
	return v, ok
}

// RegisterClientFactory sets how a handle on a VM of type t is made from a
// socket. A later registration replaces an earlier one, here and below.
func RegisterClientFactory(t Type, f ClientFactory) { register(&registry.clients, t, f) }

// RegisterSocketName sets the file name of the control socket of type t.
func RegisterSocketName(t Type, name string) { register(&registry.socketNames, t, name) }

// RegisterVsockDialerFactory sets how guests of type t are dialed.
func RegisterVsockDialerFactory(t Type, f VsockDialerFactory) { register(&registry.dialers, t, f) }

// RegisterStarter sets what starts VMs of type t.
func RegisterStarter(t Type, s VMStarter) { register(&registry.starters, t, s) }

// NewClient makes a handle on the VM of type t whose VMM serves socketPath.
func NewClient(t Type, socketPath string) (Hypervisor, error) {
	f, ok := registered(&registry.clients, t)
	if !ok {
		return nil, fmt.Errorf("hypervisor %q: %w", t, ErrNotSupported)
	}
	return f(socketPath)
}

// SocketNameForType returns the file name of the control socket of type t:
// the registered one, or t with ".sock".
func SocketNameForType(t Type) string {
	if name, ok := registered(&registry.socketNames, t); ok {
		return name
	}
	return string(t) + ".sock"
}

// NewVsockDialer makes a dialer for a guest of type t.
func NewVsockDialer(t Type, vsockSocket string, vsockCID int64) (VsockDialer, error) {
	f, ok := registered(&registry.dialers, t)
	if !ok {
		return nil, fmt.Errorf("vsock of hypervisor %q: %w", t, ErrNotSupported)
	}
	return f(vsockSocket, vsockCID), nil
}

// StarterFor returns what starts VMs of type t.
func StarterFor(t Type) (VMStarter, bool) { return registered(&registry.starters, t) }

// Types returns the types that have a starter, sorted.
func Types() []Type {
	registry.mu.RLock()
	defer registry.mu.RUnlock()
	return slices.Sorted(maps.Keys(registry.starters))
}
