package fakeengine

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/vz/shim"
	"vmfs/backends/vz/shimconfig"
)

// patience is for what happens by itself.
const patience = time.Minute

// newMachine makes a VM whose guest runs, and then is said to be in a state.
func newMachine(t *testing.T, e *Engine, state shim.State) *Machine {
	t.Helper()
	dir := t.TempDir()
	kernel := filepath.Join(dir, "vmlinuz")
	require.NoError(t, os.WriteFile(kernel, nil, 0o600))
	in, typed, err := os.Pipe()
	require.NoError(t, err)
	printed, out, err := os.Pipe()
	require.NoError(t, err)
	go func() {
		b := make([]byte, 4096)
		for {
			if _, err := printed.Read(b); err != nil {
				return
			}
		}
	}()
	made, err := e.New(&shimconfig.Config{
		Name: "web", CPUs: 1, Memory: 64 << 20, Boot: shimconfig.Boot{Linux: &shimconfig.Linux{Kernel: kernel}},
		Vsock: &shimconfig.Vsock{Socket: filepath.Join(dir, "vsock.sock")}, Console: shimconfig.Console{Socket: filepath.Join(dir, "console.sock")},
	}, shim.Files{ConsoleIn: in, ConsoleOut: out})
	require.NoError(t, err)
	m := made.(*Machine)
	t.Cleanup(func() {
		if g := m.there(); g != nil {
			g.end()
		}
		for _, f := range []*os.File{in, typed, printed, out} {
			_ = f.Close()
		}
	})
	if state == shim.StateStopped {
		return m
	}
	require.NoError(t, m.Start())
	if state == shim.StatePaused || state == shim.StateSaving || state == shim.StateResuming {
		require.NoError(t, m.Pause())
	}
	m.mu.Lock()
	m.set(state, nil)
	m.mu.Unlock()
	for len(m.changes) > 0 {
		<-m.changes
	}
	return m
}

// call does a row's call.
func (m *Machine) call(t *testing.T, c Call) error {
	switch c {
	case CallStart:
		return m.Start()
	case CallPause:
		return m.Pause()
	case CallResume:
		return m.Resume()
	case CallStop:
		return m.Stop()
	case CallRequest:
		return m.RequestStop()
	case CallSave:
		return m.Save(filepath.Join(t.TempDir(), "state"))
	case CallRestore:
		other := newMachine(t, m.engine, shim.StatePaused)
		other.id = m.id
		state := filepath.Join(t.TempDir(), "state")
		require.NoError(t, other.Save(state))
		return m.Restore(state)
	case GuestStops:
		return m.there().hv.DeleteVM(t.Context())
	case GuestFails:
		m.Fail(errors.New("planted"))
		return nil
	}
	t.Fatal("no call for the row of " + string(c))
	return nil
}

// TestRows holds the fake to its table: every call, in every state.
func TestRows(t *testing.T) {
	for _, row := range Rows {
		for _, from := range States {
			t.Run(string(row.Call)+" of one that is "+string(from), func(t *testing.T) {
				m := newMachine(t, New(Config{}), from)
				byItself := row.Call == GuestStops || row.Call == GuestFails
				if byItself && !slices.Contains(row.From, from) {
					t.Skip("it does not happen there")
				}
				err := m.call(t, row.Call)
				var got []shim.State
				want := []shim.State{row.Via, row.To}
				switch {
				case !slices.Contains(row.From, from):
					require.ErrorContains(t, err, "invalid virtual machine state transition")
					want = nil
				default:
					require.NoError(t, err)
				}
				if row.Call == CallRequest && err == nil {
					want = []shim.State{shim.StateStopped} // the guest listens, see GuestStops
				}
				want = slices.DeleteFunc(want, func(s shim.State) bool { return s == "" })
				for range want {
					select {
					case c := <-m.Changes():
						got = append(got, c.State)
					case <-time.After(patience):
						t.Fatalf("of the states %v there were %v", want, got)
					}
				}
				assert.Equal(t, want, got)
				m.mu.Lock()
				defer m.mu.Unlock()
				assert.Empty(t, m.changes)
				if len(want) == 0 {
					assert.Equal(t, from, m.state, "a call that is refused changes nothing")
				}
			})
		}
	}
}

// TestGates holds what the framework says is possible to what is.
func TestGates(t *testing.T) {
	for _, state := range States {
		m := newMachine(t, New(Config{}), state)
		for _, row := range Rows {
			if row.Gate != "" {
				assert.Equal(t, slices.Contains(row.From, state), m.Can(row.Gate), "can %s of one that is %s", row.Gate, state)
			}
		}
	}
}

// TestPages has a page for every row, of Apple's documentation.
func TestPages(t *testing.T) {
	seen := map[Call]bool{}
	for _, row := range Rows {
		u, err := url.Parse(row.Page)
		require.NoError(t, err)
		assert.Equal(t, "developer.apple.com", u.Host)
		assert.True(t, strings.HasPrefix(u.Path, "/documentation/virtualization/vzvirtualmachine"), row.Page)
		assert.False(t, seen[row.Call], row.Call)
		seen[row.Call] = true
		for _, s := range append(row.From, row.Via, row.To, row.Fails) {
			assert.True(t, s == "" || slices.Contains(States, s), "%s: %q", row.Call, s)
		}
	}
}

// TestLag is a framework whose state is late: what is done is not there yet, and nothing
// is possible that the state does not allow.
func TestLag(t *testing.T) {
	m := newMachine(t, New(Config{Lag: time.Hour}), shim.StateRunning)
	require.NoError(t, m.Pause())
	m.mu.Lock()
	assert.Equal(t, shim.StatePausing, m.state)
	m.mu.Unlock()
	assert.False(t, m.Can(shim.ActionResume))
	require.Error(t, m.Resume())
}

// TestSavedIsOfOneMachine is what the framework restores: the machine that was saved, and
// none that is like it.
func TestSavedIsOfOneMachine(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	m := newMachine(t, New(Config{}), shim.StatePaused)
	require.NoError(t, m.Save(state))
	require.Error(t, m.Save(state), "the file is there")
	other := newMachine(t, New(Config{}), shim.StateStopped)
	require.ErrorContains(t, other.Restore(state), "another configuration")
	var states []shim.State
	for len(other.changes) > 0 {
		states = append(states, (<-other.changes).State)
	}
	assert.Equal(t, []shim.State{shim.StateRestoring, shim.StateStopped}, states)
	other.id = m.id
	require.NoError(t, other.Restore(state))
}
