package machine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/sim"
	"vmfs/machine/events"
)

// The test program is also the fake VMM that the tests of adoption spawn, and the
// server that they kill.
func TestMain(m *testing.M) {
	switch os.Getenv("MACHINE_TEST_ROLE") {
	case "vmm":
		fakeMain()
	case "server":
		serverMain()
	default:
		os.Exit(m.Run())
	}
}

const patience = 30 * time.Second

// within bounds what a test waits for.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// stateDir returns a directory whose path leaves room for a socket's name.
func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vmfs")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// open opens a Host of simulated VMs; the caller may close it earlier.
func open(t *testing.T, dir string, change ...func(*Options)) *Host {
	t.Helper()
	o := Options{StateDir: dir, DefaultBackend: hypervisor.TypeSim}
	for _, f := range change {
		f(&o)
	}
	h, err := Open(context.Background(), o)
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

var registerSim = sync.OnceValue(func() *sim.World {
	s := sim.New(sim.Config{})
	s.Register()
	return s.World()
})

// simHost opens a Host on a directory of its own.
func simHost(t *testing.T, change ...func(*Options)) (*Host, *sim.World) {
	t.Helper()
	w := registerSim()
	return open(t, stateDir(t), change...), w
}

func create(t *testing.T, h *Host, name, config string) *VM {
	t.Helper()
	v, err := h.Create(name, Owner{})
	require.NoError(t, err)
	if config != "" {
		require.NoError(t, v.SetConfig(within(t), config, false))
	}
	return v
}

func started(t *testing.T, h *Host, name, config string) *VM {
	t.Helper()
	v := create(t, h, name, config)
	require.NoError(t, v.Start(within(t)))
	return v
}

func await(t *testing.T, v *VM, what string, pred func(Status) bool) Status {
	t.Helper()
	s, err := v.Watch(within(t), pred)
	require.NoError(t, err, "%s: waited for %s, was %+v", v.Name(), what, s)
	return s
}

func awaitState(t *testing.T, v *VM, states ...hypervisor.VMState) Status {
	t.Helper()
	return await(t, v, fmt.Sprint(states), func(s Status) bool { return slices.Contains(states, s.State) })
}

// kinds reads records until one of the kind comes and returns all their kinds.
func kinds(t *testing.T, s *events.Subscription, until string) []string {
	t.Helper()
	var list []string
	for {
		r, err := s.Next(within(t))
		require.NoError(t, err, "waited for %s, got %v", until, list)
		list = append(list, r.Kind)
		if r.Kind == until {
			return list
		}
	}
}

// assertModes holds that nobody else can look into a state directory.
func assertModes(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		assert.Zero(t, fi.Mode().Perm()&0o077, "%s has mode %v", path, fi.Mode())
		return nil
	}))
}
