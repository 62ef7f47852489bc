package sim_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/hypervisor/hypervisortest"
	"vmfs/backends/sim"
)

// suiteBackend is what the suite needs to know of VMs that s starts.
func suiteBackend(s *sim.Starter) hypervisortest.Backend {
	cid := int64(2)
	said := func(typed string) func(string) (string, string) {
		return func(token string) (string, string) { return typed + token + "\r", "\r\n" + token + "\r\n" }
	}
	return hypervisortest.Backend{
		Type:    hypervisor.TypeSim,
		Starter: s,
		Config: func(testing.TB, string) hypervisor.VMConfig {
			cid++
			return hypervisor.VMConfig{MemoryBytes: 256 << 20, HotplugBytes: 256 << 20, VsockCID: cid}
		},
		Ready:    hypervisortest.ReadyLine(sim.ReadyLine),
		Deadline: 30 * time.Millisecond,
		Hang: func(t testing.TB, vm *hypervisortest.VM) func() {
			v, ok := s.World().VM(vm.SocketPath)
			require.True(t, ok)
			require.NoError(t, v.Inject(sim.Fault{Kind: sim.FaultHang}))
			return func() { v.Clear() }
		},
		Echo: said("echo "),
		Remember: func(token string) (string, string) {
			return "note " + token + "\r", "\r\nsim> "
		},
		Recall: func(token string) (string, string) {
			return "note\r", "\r\n" + token + "\r\n"
		},
		EchoPort: sim.PortEcho,
		NMI:      sim.NMILine,
		DiskSize: func(i int, bytes int64) (string, string) {
			return fmt.Sprintf("disk %d\r", i), fmt.Sprintf("\r\n%d\r\n", bytes)
		},
		Stops: append(hypervisortest.Stops(hypervisortest.Typing("poweroff\r"), hypervisortest.Typing("panic\r")), hypervisortest.Stop{
			Name: "disk failure",
			Provoke: func(t testing.TB, vm *hypervisortest.VM) {
				v, ok := s.World().VM(vm.SocketPath)
				require.True(t, ok)
				require.NoError(t, v.Inject(sim.Fault{Kind: sim.FaultIOError}))
			},
			Kind: hypervisor.EventIOError, State: hypervisor.StatePaused, Reason: sim.ReasonIOError,
		}),
	}
}

// TestSuite runs the suite on VMs that differ in what they can do and in how
// long they take.
func TestSuite(t *testing.T) {
	for name, c := range map[string]sim.Config{
		"at once":                  {},
		"taking time":              {BootTime: 5 * time.Millisecond, PowerOffTime: 5 * time.Millisecond, Faults: []sim.Fault{{Kind: sim.FaultSlowResize, Rate: 8 << 30}}},
		"lingering":                {Linger: true},
		"without pause":            {Without: []string{"pause"}},
		"without snapshot":         {Without: []string{"snapshot"}},
		"without memory":           {Without: []string{"memory"}},
		"without memory and pause": {Without: []string{"memory", "pause", "snapshot"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := sim.New(c)
			s.Register()
			t.Run("suite", func(t *testing.T) { hypervisortest.Run(t, suiteBackend(s)) })
			require.Empty(t, s.World().VMs(), "the suite left VMs")
		})
	}
}
