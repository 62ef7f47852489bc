package hypervisortest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/hypervisor/hypervisortest"
	"vmfs/backends/sim"
)

// A breach is a back end that keeps every promise but one.
type breach struct {
	name string
	// caught lists subtests of the suite that must fail for it.
	caught []string
	// wrap breaks a handle; nil breaks none.
	wrap func(h *sim.Handle) hypervisor.Hypervisor
	// start breaks StartVM, restore RestoreVM; nil leaves it whole.
	start   func(s *starter, ctx context.Context, socket string, c hypervisor.VMConfig) (int, hypervisor.Hypervisor, error)
	restore func(s *starter, ctx context.Context, socket, path string) (int, hypervisor.Hypervisor, error)
	// client breaks the client factory.
	client func(s *starter, socket string) (hypervisor.Hypervisor, error)
}

var breaches = []breach{
	{name: "none"},
	{
		name: "Pause lies", caught: []string{"pause_and_resume"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return pauseLies{h} },
	},
	{
		name: "Pause and GetVMInfo lie", caught: []string{"pause_and_resume"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return &pauseAndInfoLie{Handle: h} },
	},
	{
		name: "Pause is not idempotent", caught: []string{"pause_and_resume"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return pauseOnce{h} },
	},
	{
		name: "context ignored", caught: []string{"contexts", "hang"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return contextIgnored{h} },
	},
	{
		name: "context looked at once", caught: []string{"hang"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return contextLookedAt{h} },
	},
	{
		name: "context's error hidden", caught: []string{"contexts"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return contextHidden{h} },
	},
	{
		name: "capability denied", caught: []string{"capabilities"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return capabilityDenied{h} },
	},
	{
		name: "capability claimed", caught: []string{"capabilities"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return capabilityClaimed{h} },
	},
	{
		name: "ResizeMemoryAndWait does not wait", caught: []string{"memory/deadline"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return resizeEarly{h} },
	},
	{
		name: "ResizeMemoryAndWait has no numbers", caught: []string{"memory/deadline"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return resizeWithoutNumbers{h} },
	},
	{
		name: "the handle dials another guest", caught: []string{"vsock"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return dialsAnother{h} },
	},
	{
		name: "memory clamped", caught: []string{"memory/out_of_range"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return memoryClamped{h} },
	},
	{
		name: "memory of the target", caught: []string{"memory/deadline"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return &memoryOfTarget{Handle: h} },
	},
	{
		name: "not running unwrapped", caught: []string{"shutdown", "kill", "power_off"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return notRunningUnwrapped{h} },
	},
	{
		name: "events not closed", caught: []string{"shutdown", "kill", "another_handle"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor {
			return newFilter(h, false, func(hypervisor.Event) bool { return true })
		},
	},
	{
		name: "events without pauses", caught: []string{"pause_and_resume"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor {
			return newFilter(h, true, func(e hypervisor.Event) bool { return e.Kind != hypervisor.EventPaused })
		},
	},
	{
		name: "no reason for the end", caught: []string{"power_off", "shutdown"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor {
			return newFilter(h, true, func(e hypervisor.Event) bool { return e.Kind != hypervisor.EventShutdown })
		},
	},
	{
		name: "a panicked guest runs", caught: []string{"stops/panic"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return panicHidden{h} },
	},
	{
		name: "DeleteVM does nothing", caught: []string{"power_off"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return deleteIdle{h} },
	},
	{
		name: "Shutdown does nothing", caught: []string{"shutdown"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return shutdownIdle{h} },
	},
	{
		name: "Reset does nothing", caught: []string{"reset"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return resetIdle{h} },
	},
	{
		name: "InjectNMI does nothing", caught: []string{"nmi"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return nmiIdle{h} },
	},
	{
		name: "GrowDisk shrinks", caught: []string{"disk_size"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return diskShrinks{h} },
	},
	{
		name: "GrowDisk leaves the image", caught: []string{"disk_size"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return growIdle{h} },
	},
	{
		name: "a start with a size leaves the image", caught: []string{"disk_size"},
		start: func(s *starter, ctx context.Context, socket string, c hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
			c.Disks = slices.Clone(c.Disks)
			for i := range c.Disks {
				c.Disks[i].Size = 0
			}
			return s.Starter.StartVM(ctx, nil, "", socket, c)
		},
	},
	{
		name: "another VM's identity", caught: []string{"identity", "another_handle"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return identityLies{h} },
	},
	{
		name: "the console is deaf", caught: []string{"start"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return consoleDeaf{h} },
	},
	{
		name: "Snapshot leaves the VM paused", caught: []string{"snapshot"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return snapshotPauses{h} },
	},
	{
		name: "Snapshot fails and leaves the VM paused", caught: []string{"snapshot/that_cannot_be_written"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return snapshotFailsPaused{h} },
	},
	{
		name: "Snapshot writes nothing", caught: []string{"restore"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return snapshotIdle{h} },
	},
	{
		name: "a restored VM runs", caught: []string{"restore"},
		restore: func(s *starter, ctx context.Context, socket, path string) (int, hypervisor.Hypervisor, error) {
			pid, hv, err := s.Starter.RestoreVM(ctx, nil, "", socket, path)
			if err == nil {
				err = hv.Resume(ctx)
			}
			return pid, hv, err
		},
	},
	{
		name: "restore starts a new VM", caught: []string{"restore"},
		restore: func(s *starter, ctx context.Context, socket, path string) (int, hypervisor.Hypervisor, error) {
			_, hv, err := s.Starter.RestoreVM(ctx, nil, "", socket, path)
			if err != nil {
				return 0, nil, err
			}
			config := hv.(*sim.Handle).VM().Config()
			if err := hv.Shutdown(ctx); err != nil {
				return 0, nil, err
			}
			pid, hv, err := s.Starter.StartVM(ctx, nil, "", socket, config)
			if err == nil {
				err = hv.Pause(ctx)
			}
			return pid, hv, err
		},
	},
	{
		name: "a failing start leaves a VM", caught: []string{"failing_start/bad_configuration"},
		start: func(s *starter, ctx context.Context, socket string, c hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
			pid, hv, err := s.Starter.StartVM(ctx, nil, "", socket, c)
			if err != nil && c.KernelPath != "" {
				c.KernelPath = ""
				if _, _, again := s.Starter.StartVM(ctx, nil, "", socket, c); again != nil {
					err = again
				}
			}
			return pid, hv, err
		},
	},
	{
		name: "a failing start leaves a process", caught: []string{"failing_start/bad_configuration"},
		start: func(s *starter, ctx context.Context, socket string, c hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
			pid, hv, err := s.Starter.StartVM(ctx, nil, "", socket, c)
			if err != nil && c.KernelPath != "" {
				leave(socket)
			}
			return pid, hv, err
		},
	},
	{
		name: "a failing start leaves a socket", caught: []string{"failing_start/bad_configuration"},
		start: func(s *starter, ctx context.Context, socket string, c hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
			pid, hv, err := s.Starter.StartVM(ctx, nil, "", socket, c)
			if err != nil {
				err = errors.Join(err, makeSocket(socket))
			}
			return pid, hv, err
		},
	},
	{
		name: "a failing start says nothing", caught: []string{"failing_start/bad_configuration"},
		start: func(s *starter, ctx context.Context, socket string, c hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
			pid, hv, err := s.Starter.StartVM(ctx, nil, "", socket, c)
			if err != nil && ctx.Err() == nil {
				err = errors.New("exit status 1")
			}
			return pid, hv, err
		},
	},
	{
		name: "a start ignores its context", caught: []string{"failing_start/cancelled"},
		start: func(s *starter, ctx context.Context, socket string, c hypervisor.VMConfig) (int, hypervisor.Hypervisor, error) {
			return s.Starter.StartVM(context.WithoutCancel(ctx), nil, "", socket, c)
		},
	},
	{
		name: "the VM ends with its first handle", caught: []string{"another_handle"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return closeKills{h} },
	},
	{
		name: "Close does not end calls", caught: []string{"another_handle"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return closeIdle{h} },
	},
	{
		name: "a handle where nobody is", caught: []string{"registry"},
		client: func(s *starter, socket string) (hypervisor.Hypervisor, error) {
			hv, err := s.World().Client(socket)
			if err != nil {
				err = errors.New("connection refused")
			}
			return hv, err
		},
	},
	{
		name: "one call at a time or none", caught: []string{"concurrency"},
		wrap: func(h *sim.Handle) hypervisor.Hypervisor { return newOneAtATime(h) },
	},
}

const breachVariable = "HYPERVISORTEST_BREACH"

// TestSuiteOfBreach runs the suite on the back end that the environment names;
// it is the process that TestBreachesAreCaught starts.
func TestSuiteOfBreach(t *testing.T) {
	name := os.Getenv(breachVariable)
	if name == "" {
		t.Skip("is run by TestBreachesAreCaught")
	}
	for _, b := range breaches {
		if b.name == name {
			s := &starter{sim.New(sim.Config{}), b}
			s.register()
			hypervisortest.Run(t, backend(s))
			return
		}
	}
	t.Fatalf("there is no breach %q", name)
}

// TestBreachesAreCaught holds the suite itself to its task: a back end that
// breaks one rule fails the subtests that are about it, and one that breaks none
// passes.
func TestBreachesAreCaught(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	type result struct {
		out string
		err error
	}
	// What is broken mostly waits for its timeouts, so that many can do so at once.
	turn := make(chan struct{}, 8)
	results := make([]chan result, len(breaches))
	for i, b := range breaches {
		results[i] = make(chan result, 1)
		go func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, exe, "-test.run=^TestSuiteOfBreach$", "-test.v")
			cmd.Env = append(os.Environ(), breachVariable+"="+b.name)
			out, err := cmd.CombinedOutput()
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			results[i] <- result{string(out), err}
		}()
	}
	for i, b := range breaches {
		r := <-results[i] // also where -run leaves the subtest out: the process must end
		t.Run(b.name, func(t *testing.T) {
			out, err := r.out, r.err
			if b.caught == nil {
				assert.NoError(t, err, "the suite fails a back end that is whole:\n%s", out)
				return
			}
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "the suite passes, or does not end:\n%s", out)
			assert.NotContains(t, out, "panic: ", "a back end that is broken must not make the suite panic:\n%s", out)
			for _, name := range b.caught {
				line := "--- FAIL: TestSuiteOfBreach/" + name
				assert.True(t, strings.Contains(out, line+" ") || strings.Contains(out, line+"/"),
					"no failure of the subtest %s:\n%s", name, out)
			}
		})
	}
}

func backend(s *starter) hypervisortest.Backend {
	cid := int64(2)
	b := hypervisortest.Backend{
		Type:    hypervisor.TypeSim,
		Starter: s,
		Config: func(testing.TB, string) hypervisor.VMConfig {
			cid++
			return hypervisor.VMConfig{MemoryBytes: 256 << 20, HotplugBytes: 256 << 20, VsockCID: cid}
		},
		Ready:    hypervisortest.ReadyLine(sim.ReadyLine),
		Deadline: 20 * time.Millisecond,
		Hang: func(t testing.TB, vm *hypervisortest.VM) func() {
			v, ok := s.World().VM(vm.SocketPath)
			require.True(t, ok)
			require.NoError(t, v.Inject(sim.Fault{Kind: sim.FaultHang}))
			return func() { v.Clear() }
		},
		Remember: func(token string) (string, string) { return "note " + token + "\r", "\r\nsim> " },
		Recall:   func(token string) (string, string) { return "note\r", "\r\n" + token + "\r\n" },
		EchoPort: sim.PortEcho,
		NMI:      sim.NMILine,
		DiskSize: func(i int, bytes int64) (string, string) {
			return fmt.Sprintf("disk %d\r", i), fmt.Sprintf("\r\n%d\r\n", bytes)
		},
		Stops: []hypervisortest.Stop{{
			Name: "panic",
			Provoke: func(t testing.TB, vm *hypervisortest.VM) {
				conn, err := vm.Handle.(hypervisor.Console).OpenConsole(t.Context())
				require.NoError(t, err)
				_, err = io.WriteString(conn, "panic\r")
				require.NoError(t, err)
				require.NoError(t, conn.Close())
			},
			Kind: hypervisor.EventPanicked, State: hypervisor.StatePaused, Reason: sim.ReasonPanicked,
		}},
	}
	if s.breach.caught != nil {
		// Time is lost by waiting for what does not come; that what does come may
		// be too late on a busy machine makes only more failures.
		b.Timeout, b.Prompt = time.Second, 500*time.Millisecond
	}
	return b
}
