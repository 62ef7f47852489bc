package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"vmfs/backends/companion"
	"vmfs/backends/disk"
	"vmfs/backends/handle"
	"vmfs/backends/hostnet"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/qemu/qmp"
	"vmfs/backends/qemu/vsockdev"
	"vmfs/backends/rundir"
	"vmfs/backends/serial"
	"vmfs/backends/starter"
	"vmfs/backends/stored"
	"vmfs/internal/unixsock"
)

// start starts a QEMU and lets its guest run.
func (s *Starter) start(ctx context.Context, r starter.Request, config hypervisor.VMConfig) (*VM, error) {
	pl, err := s.plan(ctx, r, config)
	if err != nil {
		return nil, err
	}
	vm, err := s.launch(ctx, pl)
	if err != nil {
		return nil, err
	}
	if err := vm.letRun(ctx); err != nil {
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
	set, err := settingsOf(config.Extras)
	if err != nil {
		return nil, err
	}
	pl := &plan{config: config, set: set, host: s.host, dir: dir, aside: s.aside}
	if pl.program, err = s.Program(ctx, r, config); err != nil {
		return nil, err
	}
	if pl.arch, err = archOf(pl.program.Path); err != nil {
		return nil, err
	}
	if pl.accel, err = s.host.chooseAccel(set.accel, pl.arch); err != nil {
		return nil, err
	}
	if pl.machine = set.machine; pl.machine == "" {
		pl.machine = pl.arch.machine
	}
	pl.layout = pl.arch.layout(pl.machine)
	return pl, nil
}

// launch starts QEMU with its virtual CPUs stopped, and returns when it answers.
// When it fails nothing is left of it.
func (s *Starter) launch(ctx context.Context, pl *plan) (*VM, error) {
	if err := serial.End(ctx, pl.dir.console()); err != nil {
		return nil, fmt.Errorf("what an earlier QEMU has left: %w", err)
	}
	if err := pl.dir.Prepare(); err != nil {
		return nil, err
	}
	if vsockdev.Supported && pl.config.VsockSocket != "" {
		if err := vsockdev.End(ctx, pl.config.VsockSocket); err != nil {
			return nil, fmt.Errorf("what an earlier QEMU has left: %w", err)
		}
	}
	if !pl.incoming {
		if err := disk.TakeBack(pl.dir.Swap()); err != nil {
			return nil, err
		}
	}
	if err := awaitImages(ctx, pl.config.Disks); err != nil {
		return nil, err
	}
	if !pl.incoming { // what is restored has the size that it had
		if err := disk.Fit(ctx, pl.config.Disks); err != nil {
			return nil, err
		}
	}
	args, err := pl.args()
	if err != nil {
		return nil, err
	}
	vm, c, err := s.spawn(ctx, pl, args)
	if err == nil {
		if err = vm.conn.Ready(ctx); err == nil && pl.aside {
			err = vm.awaitSerial(ctx)
		}
		// A vsock device in place would keep QEMU from reading a state.
		if err == nil && !pl.incoming {
			err = vm.plugVsock(ctx)
		}
	}
	if err != nil {
		return nil, s.abandon(ctx, c, vm, pl.dir, err)
	}
	return vm, nil
}

// spawn makes what QEMU inherits, starts it and connects to it. What it returns
// beside an error is to be abandoned.
func (s *Starter) spawn(ctx context.Context, pl *plan, args []string) (*VM, *process.Child, error) {
	rec := &record{
		Record: rundir.Record{
			Config: stored.Config{VMConfig: pl.config}, Binary: pl.program.Path, Version: pl.program.Version, Args: args, Time: time.Now(),
			Ran: pl.incoming,
		},
		Layout: pl.layout, Accel: pl.accel, Machine: pl.machine,
		Serial: pl.aside, Vsock: pl.config.VsockSocket != "", Ejects: pl.config.VsockSocket != "" && pl.ejects(),
	}
	if err := rundir.Write(pl.dir.Dir, rec); err != nil {
		return nil, nil, err
	}
	c, holder, err := pl.run(ctx, args)
	if err != nil {
		return nil, nil, err
	}
	rec.Process = &c.Process
	if err := rundir.Write(pl.dir.Dir, rec); err != nil {
		return nil, c, err
	}
	vm, err := s.connect(ctx, pl.dir, rec, c)
	if err == nil && holder != nil {
		vm.Spawn(func() { vm.keepSerial(holder) })
	}
	return vm, c, err
}

// run starts QEMU with what it inherits, and what is beside it before it. The holder is
// that of the console, nil where there is none.
func (p *plan) run(ctx context.Context, args []string) (c *process.Child, holder *companion.Companion, err error) {
	set := serial.In(p.dir.Dir, &p.config)
	var files []*os.File
	var beside []*process.Child
	defer func() {
		for _, f := range files {
			_ = f.Close() // QEMU has its own by now, or never will
		}
		if err != nil {
			for _, b := range beside {
				err = errors.Join(err, b.Kill())
			}
			if holder != nil {
				err = errors.Join(err, holder.End(context.WithoutCancel(ctx)))
			}
		}
	}()
	for _, name := range p.files {
		f, passt, err := p.open(ctx, name, set.Log)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, f)
		if passt != nil {
			beside = append(beside, passt)
		}
	}
	command := process.Command{Path: p.program.Path, Args: args, Files: files, Log: set.Log}
	if p.aside {
		if command.Output, holder, err = serial.Begin(ctx, set); err != nil {
			return nil, nil, err
		}
		defer command.Output.Close() // QEMU has its own by now, or never will
	}
	if c, err = process.Start(ctx, command); err != nil {
		return nil, holder, err
	}
	c.Beside = beside
	if holder != nil {
		c.Writer = holder.Process
	}
	return c, holder, nil
}

// open opens one of the files that QEMU inherits, and starts the passt behind it.
func (p *plan) open(ctx context.Context, name, log string) (*os.File, *process.Child, error) {
	if i, err := strconv.Atoi(strings.TrimPrefix(name, fileNetwork)); err == nil {
		return hostnet.Open(ctx, &p.config, i, log)
	}
	console := p.dir.console()
	if p.aside {
		console = serial.In(p.dir.Dir, &p.config).VMM
	}
	f, err := unixsock.Bind(ctx, map[string]string{
		fileControl: p.dir.Control(), fileMonitor: p.dir.monitor(), fileConsole: console, fileVsock: p.dir.vhost(),
	}[name])
	return f, nil, err
}

// letRun lets the guest of a new QEMU run, and makes sure that it does.
func (vm *VM) letRun(ctx context.Context) error {
	if err := vm.resume(ctx); err != nil {
		return err
	}
	status, err := vm.status(ctx)
	if err != nil {
		return err
	}
	switch s := vm.meaning(status); s.reason {
	case reasonInternalError, handle.ReasonPrelaunch:
		return fmt.Errorf("the guest does not run: QEMU says %s", status)
	}
	return nil
}

// abandon ends what a failed start has made, and returns err with QEMU's own
// words. The child or the handle may be nil.
func (s *Starter) abandon(ctx context.Context, c *process.Child, vm *VM, dir runDir, err error) error {
	made := starter.Made{Dir: dir.Dir, Child: c, Ending: errors.Is(err, qmp.ErrDisconnected)}
	if vm != nil {
		made.Handle, made.VsockSocket = vm, vm.record().Config.VsockSocket
	}
	return s.Abandon(ctx, made, err)
}

// stamp is what QEMU puts before its messages: the time, and its own name.
var stamp = regexp.MustCompile(`(^|; )\d{4}-\d\d-\d\dT[0-9:.]+Z (qemu-system-\S+: )?`)

// plain takes the stamps from QEMU's words.
func plain(said string) string { return stamp.ReplaceAllString(said, "$1") }
