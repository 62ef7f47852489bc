package sim_test

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
	"vmfs/backends/sim"
)

func TestParseFault(t *testing.T) {
	for text, want := range map[string]sim.Fault{
		"hang":              {Kind: sim.FaultHang},
		" hang@pause":       {Kind: sim.FaultHang, Verb: sim.VerbPause},
		"crash:2s":          {Kind: sim.FaultCrash, Delay: 2 * time.Second},
		"crash@memory":      {Kind: sim.FaultCrash, Verb: sim.VerbMemory},
		"slow-resize:64M":   {Kind: sim.FaultSlowResize, Rate: 64 << 20},
		"no-resize":         {Kind: sim.FaultNoResize},
		"panic:1500ms":      {Kind: sim.FaultPanic, Delay: 1500 * time.Millisecond},
		"io-error":          {Kind: sim.FaultIOError},
		"start-hang":        {Kind: sim.FaultStartHang},
		"slow-start:1m":     {Kind: sim.FaultSlowStart, Delay: time.Minute},
		"refuse@stop:no: x": {Kind: sim.FaultRefuse, Verb: sim.VerbStop, Err: errors.New("no: x")},
	} {
		got, err := sim.ParseFault(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, got, text)
		again, err := sim.ParseFault(got.String())
		require.NoError(t, err, "String of %s", text)
		assert.Equal(t, got, again, "String of %s", text)
	}
	for _, text := range []string{
		"", "hung", "hang:1s", "hang@nothing", "hang@connect", "hang@", "crash@pause:1s", "crash:soon", "crash:-1s",
		"slow-resize", "slow-resize:0", "slow-resize:fast", "slow-resize:9999999T", "slow-resize:M",
		"slow-start", "no-resize:1", "panic@pause", "start-hang:1s",
	} {
		_, err := sim.ParseFault(text)
		require.ErrorIs(t, err, hypervisor.ErrInvalid, text)
		assert.ErrorContains(t, err, strings.TrimSpace(text))
	}
}

func FuzzParseFault(f *testing.F) {
	for _, text := range []string{"hang@pause", "crash:2s", "slow-resize:64M", "refuse@stop:no", "no-poweroff"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		fault, err := sim.ParseFault(text)
		if err != nil {
			require.ErrorIs(t, err, hypervisor.ErrInvalid)
			return
		}
		again, err := sim.ParseFault(fault.String())
		require.NoError(t, err)
		assert.Equal(t, fault, again)
	})
}

func TestBadSettings(t *testing.T) {
	for _, c := range []struct{ key, value string }{
		{"sim.fualt", "hang"},
		{"sim.", ""},
		{"sim.fault", "hang,burn"},
		{"sim.fault", ""},
		{"sim.boot-time", "soon"},
		{"sim.boot-time", "-1s"},
		{"sim.poweroff-time", "1"},
		{"sim.linger", "maybe"},
		{"sim.without", "pause,everything"},
	} {
		s := sim.New(sim.Config{})
		_, hv, err := s.StartVM(t.Context(), nil, "", filepath.Join(t.TempDir(), "sim.sock"),
			hypervisor.VMConfig{Name: "web", Extras: map[string]string{c.key: c.value}})
		require.ErrorIs(t, err, hypervisor.ErrInvalid, "%s=%s", c.key, c.value)
		assert.Nil(t, hv)
		assert.ErrorContains(t, err, c.key)
		assert.ErrorContains(t, err, "web")
		assert.Empty(t, s.World().VMs())
	}
}

func TestBadConfigs(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for name, c := range map[string]struct {
		config hypervisor.VMConfig
		want   error
	}{
		"kernel":   {hypervisor.VMConfig{KernelPath: missing}, fs.ErrNotExist},
		"initrd":   {hypervisor.VMConfig{KernelPath: "/dev/null", InitrdPath: missing}, fs.ErrNotExist},
		"disk":     {hypervisor.VMConfig{Disks: []hypervisor.DiskConfig{{Path: missing}}}, fs.ErrNotExist},
		"limit":    {hypervisor.VMConfig{Disks: []hypervisor.DiskConfig{{Path: missing, IOBps: 1}}}, hypervisor.ErrNotSupported},
		"pci":      {hypervisor.VMConfig{PCIDevices: []string{"0000:01:00.0"}}, hypervisor.ErrNotSupported},
		"memory":   {hypervisor.VMConfig{MemoryBytes: -1}, hypervisor.ErrInvalid},
		"overflow": {hypervisor.VMConfig{MemoryBytes: 1 << 62, HotplugBytes: 1 << 62}, hypervisor.ErrInvalid},
		"cpus":     {hypervisor.VMConfig{VCPUs: 3, Topology: &hypervisor.CPUTopology{CoresPerDie: 2}}, hypervisor.ErrInvalid},
		"cid":      {hypervisor.VMConfig{VsockCID: 2}, hypervisor.ErrInvalid},
		"serial":   {hypervisor.VMConfig{SerialLogPath: filepath.Join(missing, "log")}, fs.ErrNotExist},
		"no vsock": {hypervisor.VMConfig{VsockCID: 3, Extras: map[string]string{"sim.without": "vsock"}}, hypervisor.ErrNotSupported},
	} {
		s := sim.New(sim.Config{})
		_, _, err := s.StartVM(t.Context(), nil, "", filepath.Join(t.TempDir(), "sim.sock"), c.config)
		require.ErrorIs(t, err, c.want, name)
		assert.Empty(t, s.World().VMs(), name)
	}
	_, _, err := sim.New(sim.Config{}).StartVM(t.Context(), nil, "2", missing, hypervisor.VMConfig{})
	require.ErrorIs(t, err, hypervisor.ErrInvalid)
}

// calls are the verbs that a handle has.
func calls(hv *sim.Handle, dir string) map[sim.Verb]func(context.Context) error {
	return map[sim.Verb]func(context.Context) error{
		sim.VerbPause:    hv.Pause,
		sim.VerbResume:   hv.Resume,
		sim.VerbPowerOff: hv.DeleteVM,
		sim.VerbStop:     hv.Shutdown,
		sim.VerbReset:    hv.Reset,
		sim.VerbKill:     hv.Kill,
		sim.VerbSnapshot: func(ctx context.Context) error { return hv.Snapshot(ctx, dir) },
		sim.VerbMemory:   func(ctx context.Context) error { return hv.ResizeMemory(ctx, 128<<20) },
		sim.VerbInfo: func(ctx context.Context) error {
			_, err := hv.GetVMInfo(ctx)
			return err
		},
		sim.VerbIdentify: func(ctx context.Context) error {
			_, err := hv.Identify(ctx)
			return err
		},
		sim.VerbConsole: func(ctx context.Context) error {
			c, err := hv.OpenConsole(ctx)
			if err == nil {
				err = c.Close()
			}
			return err
		},
		sim.VerbVsock: func(ctx context.Context) error {
			c, err := hv.VM().World().Dialer("", 42).DialVsock(ctx, sim.PortEcho)
			if err == nil {
				err = c.Close()
			}
			return err
		},
	}
}

func TestFaultsAtEveryVerb(t *testing.T) {
	for _, c := range []struct {
		kind sim.FaultKind
		want error
	}{
		{sim.FaultHang, context.DeadlineExceeded},
		{sim.FaultRefuse, errOutOfOrder},
		{sim.FaultCrash, hypervisor.ErrHypervisorNotRunning},
	} {
		hv, _ := start(t, sim.Config{})
		for verb := range calls(hv, "") {
			t.Run(string(c.kind)+"@"+string(verb), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hv, _ := start(t, sim.Config{})
					fault := sim.Fault{Kind: c.kind, Verb: verb}
					if c.kind == sim.FaultRefuse {
						fault.Err = errOutOfOrder
					}
					require.NoError(t, hv.VM().Inject(fault))
					assert.Equal(t, []sim.Fault{fault}, hv.VM().Faults())
					for other, call := range calls(hv, t.TempDir()) {
						if other == verb || other == sim.VerbPowerOff || other == sim.VerbStop || other == sim.VerbKill || other == sim.VerbPause {
							continue
						}
						require.NoError(t, call(t.Context()), "%s with a fault at %s", other, verb)
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					defer cancel()
					began := time.Now()
					require.ErrorIs(t, calls(hv, t.TempDir())[verb](ctx), c.want)
					waited := time.Since(began)
					if c.kind == sim.FaultHang {
						assert.Equal(t, time.Hour, waited)
					} else {
						assert.Zero(t, waited)
					}
					if c.kind == sim.FaultCrash {
						var last hypervisor.Event
						for last = range hv.Events() {
						}
						assert.NotEqual(t, hypervisor.EventShutdown, last.Kind, "a crash says no word")
						return
					}
					hv.VM().Clear(c.kind)
					assert.Empty(t, hv.VM().Faults())
					require.NoError(t, calls(hv, t.TempDir())[verb](t.Context()), "after Clear")
				})
			})
		}
	}
}

var errOutOfOrder = errors.New("out of order")

func TestRefusedConnect(t *testing.T) {
	hv, _ := start(t, sim.Config{}, "sim.fault", "refuse@connect:too many monitors")
	_, err := hv.VM().World().Client(hv.VM().SocketPath())
	require.ErrorContains(t, err, "too many monitors")
	hv.VM().Clear()
	again, err := hv.VM().World().Client(hv.VM().SocketPath())
	require.NoError(t, err)
	require.NoError(t, hypervisor.CloseHandle(again))
}

// A VMM that hangs as a whole freezes its guest; it can be killed.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hv, config := start(t, sim.Config{BootTime: time.Second}, "sim.fault", "hang")
		time.Sleep(time.Minute)
		assert.NotContains(t, read(t, config.SerialLogPath), sim.ReadyLine)

		answered := make(chan error)
		go func() {
			_, err := hv.GetVMInfo(t.Context())
			answered <- err
		}()
		synctest.Wait()
		select {
		case err := <-answered:
			t.Fatal("a VMM that hangs answered:", err)
		default:
		}
		hv.VM().Clear(sim.FaultHang)
		require.NoError(t, <-answered)
		assert.Contains(t, read(t, config.SerialLogPath), sim.ReadyLine, "the guest has gone on")

		require.NoError(t, hv.VM().Inject(sim.Fault{Kind: sim.FaultHang}))
		other, err := hv.VM().World().Client(hv.VM().SocketPath())
		require.NoError(t, err, "connecting is the kernel's matter")
		go func() {
			_, err := other.GetVMInfo(t.Context())
			answered <- err
		}()
		synctest.Wait()
		require.NoError(t, hv.Kill(t.Context()))
		require.ErrorIs(t, <-answered, hypervisor.ErrHypervisorNotRunning)
	})
}

func TestTimedFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hv, _ := start(t, sim.Config{}, "sim.fault", "io-error:1s,panic:3s,crash:5s")
		assert.Equal(t, hypervisor.StateRunning, info(t, hv).State)
		time.Sleep(2 * time.Second)
		i := info(t, hv)
		assert.Equal(t, hypervisor.StatePaused, i.State)
		assert.Equal(t, sim.ReasonIOError, i.Reason)
		require.NoError(t, hv.Pause(t.Context()))
		assert.Equal(t, sim.ReasonIOError, info(t, hv).Reason, "a pause does not explain it away")
		require.NoError(t, hv.Resume(t.Context()))
		assert.Empty(t, info(t, hv).Reason)

		time.Sleep(2 * time.Second)
		i = info(t, hv)
		assert.Equal(t, hypervisor.StatePaused, i.State)
		assert.Equal(t, sim.ReasonPanicked, i.Reason)
		require.ErrorIs(t, hv.Resume(t.Context()), hypervisor.ErrBusy)
		require.NoError(t, hv.Reset(t.Context()))
		assert.Equal(t, hypervisor.StatePaused, info(t, hv).State)
		require.NoError(t, hv.Resume(t.Context()))

		time.Sleep(2 * time.Second)
		_, err := hv.GetVMInfo(t.Context())
		require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
		require.ErrorIs(t, hv.VM().Inject(sim.Fault{Kind: sim.FaultHang}), hypervisor.ErrHypervisorNotRunning)
		var kinds []hypervisor.EventKind
		for e := range hv.Events() {
			kinds = append(kinds, e.Kind)
		}
		assert.Equal(t, []hypervisor.EventKind{
			hypervisor.EventRunning, hypervisor.EventIOError, hypervisor.EventPaused, hypervisor.EventRunning,
			hypervisor.EventPanicked, hypervisor.EventPaused, hypervisor.EventReset, hypervisor.EventRunning,
		}, kinds)
	})
}

func TestInjectRefusesNonsense(t *testing.T) {
	hv, _ := start(t, sim.Config{})
	for _, f := range []sim.Fault{
		{}, {Kind: "burn"}, {Kind: sim.FaultSlowResize}, {Kind: sim.FaultStartFail}, {Kind: sim.FaultPanic, Verb: sim.VerbPause},
		{Kind: sim.FaultHang, Delay: 1}, {Kind: sim.FaultCrash, Delay: -1},
	} {
		require.ErrorIs(t, hv.VM().Inject(f), hypervisor.ErrInvalid, "%+v", f)
	}
	assert.Equal(t, hypervisor.StateRunning, info(t, hv).State)
}

func TestMemoryFaults(t *testing.T) {
	const base, most = 256 << 20, 512 << 20
	synctest.Test(t, func(t *testing.T) {
		hv, _ := start(t, sim.Config{}, "sim.fault", "slow-resize:32M")
		began := time.Now()
		require.NoError(t, hv.ResizeMemoryAndWait(t.Context(), most, time.Minute))
		assert.Equal(t, 8*time.Second, time.Since(began), "256 MiB at 32 MiB a second")

		var resize *hypervisor.ResizeError
		err := hv.ResizeMemoryAndWait(t.Context(), base, 4*time.Second+time.Millisecond)
		require.ErrorAs(t, err, &resize)
		assert.Equal(t, hypervisor.ResizeError{Target: base, Actual: most - 128<<20}, *resize)
		require.NoError(t, hv.ResizeMemoryAndWait(t.Context(), base, 5*time.Second))

		require.NoError(t, hv.VM().Inject(sim.Fault{Kind: sim.FaultNoResize}))
		began = time.Now()
		err = hv.ResizeMemoryAndWait(t.Context(), most, time.Hour)
		require.ErrorAs(t, err, &resize)
		assert.Equal(t, time.Hour, time.Since(began))
		assert.Equal(t, hypervisor.ResizeError{Target: most, Actual: base}, *resize)
		hv.VM().Clear()
		require.NoError(t, hv.ResizeMemoryAndWait(t.Context(), most, 0), "it is there already")

		require.NoError(t, hv.Reset(t.Context()))
		assert.EqualValues(t, most, *info(t, hv).MemoryActualSize, "the guest follows its target again")
		err = hv.ResizeMemoryAndWait(t.Context(), 2<<20, time.Second)
		require.ErrorAs(t, err, &resize)
		assert.EqualValues(t, 16<<20, resize.Actual, "a guest keeps what it needs")
	})
}

func TestStartFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sim.New(sim.Config{})
		dir := t.TempDir()
		begin := func(ctx context.Context, fault string) error {
			_, hv, err := s.StartVM(ctx, nil, "", filepath.Join(dir, "sim.sock"), hypervisor.VMConfig{
				Name: "web", LogPath: filepath.Join(dir, "log"), Extras: map[string]string{"sim.fault": fault},
			})
			if err == nil {
				err = hv.Shutdown(ctx)
			}
			assert.Empty(t, s.World().VMs())
			return err
		}
		require.ErrorContains(t, begin(t.Context(), "start-fail:no KVM here"), "no KVM here")
		assert.Contains(t, read(t, filepath.Join(dir, "log")), "no KVM here")

		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		require.ErrorIs(t, begin(ctx, "start-hang"), context.DeadlineExceeded)
		began := time.Now()
		require.NoError(t, begin(t.Context(), "slow-start:7s"))
		assert.Equal(t, 7*time.Second, time.Since(began))
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, begin(ctx, "slow-start:7s"), context.DeadlineExceeded)
	})
}

func TestPowerButton(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hv, config := start(t, sim.Config{BootTime: time.Second, PowerOffTime: time.Second}, "sim.fault", "no-poweroff")
		require.NoError(t, hv.DeleteVM(t.Context()))
		time.Sleep(time.Minute)
		assert.Equal(t, hypervisor.StateRunning, info(t, hv).State)
		hv.VM().Clear()

		require.NoError(t, hv.Pause(t.Context()))
		require.NoError(t, hv.DeleteVM(t.Context()))
		time.Sleep(time.Minute)
		assert.Equal(t, hypervisor.StatePaused, info(t, hv).State)
		require.NoError(t, hv.Resume(t.Context()))
		_, err := hv.GetVMInfo(t.Context())
		require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning, "what was put off happened at once")
		assert.Contains(t, read(t, config.SerialLogPath), "power off")

		hv, _ = start(t, sim.Config{BootTime: time.Second, PowerOffTime: time.Second})
		require.NoError(t, hv.DeleteVM(t.Context()), "while it boots")
		time.Sleep(1500 * time.Millisecond)
		assert.Equal(t, hypervisor.StateRunning, info(t, hv).State)
		time.Sleep(time.Second)
		_, err = hv.GetVMInfo(t.Context())
		require.ErrorIs(t, err, hypervisor.ErrHypervisorNotRunning)
	})
}
