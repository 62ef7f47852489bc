package cloudhypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"time"

	"vmfs/backends/cloudhypervisor/api"
	"vmfs/backends/disk"
	"vmfs/backends/hostnet"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
	"vmfs/backends/serial"
	"vmfs/backends/starter"
	"vmfs/backends/stored"
	"vmfs/internal/regular"
	"vmfs/internal/unixsock"
)

// start starts a Cloud Hypervisor and lets its guest run.
func (s *Starter) start(ctx context.Context, r starter.Request, config hypervisor.VMConfig) (*VM, error) {
	pl, err := s.plan(ctx, r, config)
	if err != nil {
		return nil, err
	}
	vm, err := s.launch(ctx, pl)
	if err != nil {
		return nil, err
	}
	if err := vm.make(ctx, pl.vm, nil); err != nil {
		return nil, s.abandon(ctx, vm.Child, vm, pl.dir, err)
	}
	return vm, nil
}

// plan finds out what a VM is to be made with.
func (s *Starter) plan(ctx context.Context, r starter.Request, config hypervisor.VMConfig) (*plan, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, err := dirOf(r.SocketPath)
	if err != nil {
		return nil, err
	}
	if err := check(&config); err != nil {
		return nil, err
	}
	dir.placeVsock(&config)
	pl := &plan{config: config, dir: dir}
	if pl.program, err = s.Program(ctx, r, config); err != nil {
		return nil, err
	}
	pl.vm, err = vmConfig(dir, &pl.config)
	return pl, err
}

// launch starts a Cloud Hypervisor that has no VM yet, and returns the handle on it. When it
// fails nothing is left of it.
func (s *Starter) launch(ctx context.Context, pl *plan) (*VM, error) {
	if err := serial.End(ctx, serial.ConsolePath(pl.dir.Dir)); err != nil {
		return nil, fmt.Errorf("what an earlier VMM has left: %w", err)
	}
	if err := pl.dir.Prepare(); err != nil {
		return nil, err
	}
	if pl.mode == "" { // what is restored has the size that it had
		if err := disk.TakeBack(pl.dir.Swap()); err != nil {
			return nil, err
		}
		if err := disk.Fit(ctx, pl.config.Disks); err != nil {
			return nil, err
		}
	}
	if err := s.needs(&pl.config); err != nil {
		return nil, err
	}
	if socket := pl.config.VsockSocket; socket != "" {
		if err := unixsock.RemoveStale(socket); err != nil {
			return nil, fmt.Errorf("vsock: %s: %w: %w", socket, hypervisor.ErrBusy, err)
		}
	}
	vm, c, err := s.spawn(ctx, pl)
	if err == nil {
		_, err = vm.client.Ping(ctx) // it runs, and speaks
	}
	if err != nil {
		return nil, s.abandon(ctx, c, vm, pl.dir, err)
	}
	return vm, nil
}

// spawn makes what Cloud Hypervisor inherits, starts it and connects to it. What it returns
// beside an error is to be abandoned.
func (s *Starter) spawn(ctx context.Context, pl *plan) (*VM, *process.Child, error) {
	args := []string{ // with the descriptors of Files below
		"--api-socket", "fd=" + strconv.Itoa(process.FirstFile), "--event-monitor", "fd=" + strconv.Itoa(process.FirstFile+1),
		"--no-shutdown", "--log-format", logFormat,
	}
	rec := &record{Memory: pl.mode, Record: rundir.Record{
		Config: stored.Config{VMConfig: pl.config}, Binary: pl.program.Path, Version: pl.program.Version, Args: args, Time: time.Now(),
	}}
	if err := rundir.Write(pl.dir.Dir, rec); err != nil {
		return nil, nil, err
	}
	control, err := unixsock.Bind(ctx, pl.dir.Control())
	if err != nil {
		return nil, nil, err
	}
	defer control.Close() // the VMM has its own by now, or never will
	// Appended to, so that it can be cut while the VMM writes to it.
	events, err := regular.OpenFile(pl.dir.events(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer events.Close()
	set := pl.dir.serial(&pl.config)
	output, beside, err := serial.Begin(ctx, set)
	if err != nil {
		return nil, nil, err
	}
	c, err := process.Start(ctx, process.Command{
		Path: pl.program.Path, Args: args, Files: []*os.File{control, events}, Log: set.Log, Output: output,
	})
	_ = output.Close() // the VMM has its own by now, or never will
	if err != nil {
		return nil, nil, errors.Join(err, beside.End(context.WithoutCancel(ctx)))
	}
	c.Writer = beside.Process
	rec.Process, rec.Time = &c.Process, time.Now() // its program has begun just now
	if err := rundir.Write(pl.dir.Dir, rec); err != nil {
		return nil, c, err
	}
	vm, err := s.connect(ctx, pl.dir, rec, c)
	if err == nil {
		vm.Spawn(func() { vm.keepSerial(beside) })
	}
	return vm, c, err
}

// make makes the VM of config in a VMM that has none, or goes on with the one that has, as far
// as it was made, and lets its guest run.
func (vm *VM) make(ctx context.Context, config, has *api.VMConfig) error {
	if has == nil {
		if err := vm.client.Create(ctx, config); err != nil {
			return err
		}
		has = config
	}
	if err := vm.addNets(ctx, has.Nets); err != nil {
		return err
	}
	if err := vm.client.Boot(ctx); err != nil {
		return err
	}
	vm.SetRan()
	return nil
}

// addNets gives a VM that has not booted the networks that it has not yet. What is on the host
// is opened here, so that the VMM needs no right to it.
func (vm *VM) addNets(ctx context.Context, has []api.Net) error {
	c := vm.record().Config.VMConfig
	for i := range c.Networks {
		n := apiNet(&c, i)
		if slices.ContainsFunc(has, func(h api.Net) bool { return h.ID == n.ID }) {
			continue
		}
		f, _, err := hostnet.Open(ctx, &c, i, "")
		if err != nil {
			return err
		}
		err = vm.client.AddNet(ctx, n, f)
		_ = f.Close() // the VMM has its own by now, or never will
		if err != nil {
			return fmt.Errorf("network %d: %w", i, err)
		}
	}
	return nil
}

// finish makes what an earlier server has not, when it was killed within a start.
func (vm *VM) finish(ctx context.Context) error {
	rec := vm.record()
	if rec == nil {
		return errors.New("what the VM was to be started with is not known: stop it, and start it again")
	}
	if rec.Memory != "" {
		return errors.New("a server was killed while it restored the VM: stop it, and restore it again")
	}
	var has *api.VMConfig
	switch info, err := vm.client.Info(ctx); {
	case err == nil:
		has = &info.Config
	case !errors.Is(err, api.ErrNoVM):
		return err
	}
	config, err := vmConfig(vm.dir, &rec.Config.VMConfig)
	if err != nil {
		return err
	}
	return vm.make(ctx, config, has)
}

// abandon ends what a failed start has made, and returns err with Cloud Hypervisor's own
// words. The child or the handle may be nil.
func (s *Starter) abandon(ctx context.Context, c *process.Child, vm *VM, dir runDir, err error) error {
	made := starter.Made{Dir: dir.Dir, Child: c}
	if vm != nil {
		made.Handle, made.VsockSocket = vm, vm.record().Config.VsockSocket
	}
	return s.Abandon(ctx, made, err)
}

// logFormat is how Cloud Hypervisor writes its messages.
const logFormat = "{wallclock} {level}: {msg}"

// stamp is what that puts before each.
var stamp = regexp.MustCompile(`(^|; )\d{4}-\d\d-\d\dT[0-9:.]+Z [A-Z]+: `)

// plain takes the stamps from Cloud Hypervisor's words.
func plain(said string) string { return stamp.ReplaceAllString(said, "$1") }
