package vz

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"time"

	"vmfs/backends/disk"
	"vmfs/backends/hypervisor"
	"vmfs/backends/process"
	"vmfs/backends/rundir"
	"vmfs/backends/starter"
	"vmfs/backends/stored"
	"vmfs/backends/vz/shim"
	"vmfs/backends/vz/shimapi"
	"vmfs/backends/vz/shimconfig"
	"vmfs/internal/unixsock"
)

// A plan is all that a VM is made of. Making one starts nothing.
type plan struct {
	config  hypervisor.VMConfig
	dir     runDir
	program program
	vm      *shimconfig.Config
	// state is the file that the VM's state is restored from; "" is a VM that is started.
	state  string
	memory int64 // what the guest has that is restored, 0 where that is not known
}

// start starts a shim and lets its guest run.
func (s *Starter) start(ctx context.Context, r starter.Request, config hypervisor.VMConfig) (*VM, error) {
	pl, err := s.plan(ctx, r, config)
	if err != nil {
		return nil, err
	}
	// The VM that it was is the VM that it is: without an identifier it is a new one.
	if pl.vm.Machine, err = pl.dir.identifier(); err != nil {
		return nil, err
	}
	return s.launch(ctx, pl)
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
	pl := &plan{config: config, dir: dir}
	dir.placeVsock(&pl.config)
	if pl.vm, err = shimConfig(dir, &pl.config); err != nil {
		return nil, err
	}
	pl.program, err = s.Program(ctx, r, config)
	return pl, err
}

// launch starts a shim, and has it start its VM, or restore it. When it fails nothing is left
// of it.
func (s *Starter) launch(ctx context.Context, pl *plan) (*VM, error) {
	if err := pl.dir.Prepare(); err != nil {
		return nil, err
	}
	if pl.state == "" { // what is restored has the size that it had
		if err := disk.TakeBack(pl.dir.Swap()); err != nil {
			return nil, err
		}
		if err := disk.Fit(ctx, pl.config.Disks); err != nil {
			return nil, err
		}
	}
	if socket := pl.config.VsockSocket; socket != "" {
		if err := unixsock.RemoveStale(socket); err != nil {
			return nil, fmt.Errorf("vsock: %s: %w: %w", socket, hypervisor.ErrBusy, err)
		}
	}
	vm, c, err := s.spawn(ctx, pl)
	if err == nil {
		err = vm.begin(ctx, pl.state)
	}
	if err != nil {
		made := starter.Made{Dir: pl.dir.Dir, Child: c, VsockSocket: pl.config.VsockSocket}
		if vm != nil {
			made.Handle = vm
		}
		return nil, s.Abandon(ctx, made, err)
	}
	return vm, nil
}

// spawn makes what the shim inherits, starts it and connects to it. What it returns beside
// an error is to be abandoned.
func (s *Starter) spawn(ctx context.Context, pl *plan) (*VM, *process.Child, error) {
	rec := &record{
		Record:   rundir.Record{Config: stored.Config{VMConfig: pl.config}, Binary: pl.program.Path, Version: pl.program.Version, Time: time.Now()},
		Restores: pl.state != "", Memory: pl.memory,
	}
	for _, n := range pl.vm.Nets {
		rec.MACs = append(rec.MACs, n.MAC)
	}
	if err := rundir.Write(pl.dir.Dir, rec); err != nil {
		return nil, nil, err
	}
	config, err := openConfig(pl)
	if err != nil {
		return nil, nil, err
	}
	defer config.Close() // the shim has its own by now, or never will
	control, err := unixsock.Bind(ctx, pl.dir.Control())
	if err != nil {
		return nil, nil, err
	}
	defer control.Close() // likewise
	files := []*os.File{control, config}
	nic, err := openNet(ctx, pl.dir, &pl.config)
	if err != nil {
		return nil, nil, err
	}
	if nic != nil {
		defer nic.Close() // likewise
		files = append(files, nic)
	}
	c, err := process.Start(ctx, process.Command{
		Path: pl.program.Path, Args: []string{shim.Name, "--" + shim.FlagSocket, pl.dir.Control()},
		Files: files, Log: cmp.Or(pl.config.LogPath, pl.dir.Log()),
	})
	if err != nil {
		return nil, nil, err
	}
	rec.Process = &c.Process
	if err := rundir.Write(pl.dir.Dir, rec); err != nil {
		return nil, c, err
	}
	vm, err := s.connect(ctx, pl.dir, rec, c)
	return vm, c, err
}

// openConfig writes the shim's configuration, and opens it to be read. The file has no name
// any more when it returns.
func openConfig(pl *plan) (*os.File, error) {
	b, err := shimconfig.Marshal(pl.vm)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", hypervisor.ErrInvalid, err)
	}
	path := pl.dir.config()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	err = os.Remove(path)
	if err == nil {
		_, err = f.Write(b)
	}
	if err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		_ = f.Close() // the error says enough
		return nil, err
	}
	return f, nil
}

// begin has the shim begin: it makes the VM, says what it is, and starts it, or restores it
// from a file.
func (vm *VM) begin(ctx context.Context, state string) error {
	if err := vm.learn(ctx); err != nil {
		return err
	}
	if state == "" {
		return vm.call(ctx, shimapi.MethodStart, nil, nil)
	}
	return vm.call(ctx, shimapi.MethodRestore, shimapi.File{Path: state}, nil)
}

// learn asks the shim what its VM is and can do, and puts that down.
func (vm *VM) learn(ctx context.Context) error {
	var r shimconfig.Report
	if err := vm.call(ctx, shimapi.MethodReport, nil, &r); err != nil {
		return err
	}
	vm.mu.Lock()
	vm.caps = capabilities(r.Host, r.Support)
	vm.mu.Unlock()
	if err := vm.dir.keepIdentifier(r.Machine); err != nil {
		return err
	}
	vm.changeRecord(func(rec *record) { rec.Report = &r })
	return nil
}
