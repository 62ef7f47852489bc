package testhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"vmfs/guest"
	"vmfs/guest/exec"
	"vmfs/guest/exec/foreground"
	"vmfs/guest/imagecache"
	"vmfs/guest/testhost/internal/spec"
)

// Kernel is the package of the host's kernel: the ordinary one, since Debian's cloud
// kernels have neither vhost nor 9p nor vfio.
const Kernel = "linux-image-amd64"

// modules are loaded in every host; more cannot be.
var modules = []string{
	"virtio_pci", "virtio_console", "virtio_net",
	"9p", "9pnet_fd", "9pnet_virtio", "overlay",
	"kvm_amd", "vhost_vsock", "vhost_net", "tun", "bridge", "veth", "dummy",
	"vfio_pci", "vfio_iommu_type1", "loop", "ext4", "fuse",
}

// Times. A host is up in ten seconds on two idle cores.
const (
	bootTime   = 3 * time.Minute
	nudgeAfter = 20 * time.Second // of silence on the serial line; see watch
	stillAfter = 90 * time.Second
	endTime    = 30 * time.Second // for the host to power off
)

// Errors of a host, not of its program.
var (
	// ErrStill means that the host stood still: its clock, not the program's.
	ErrStill = errors.New("the test host stands still: its serial line says nothing any more")
	// ErrEnded means that it ended before its program did.
	ErrEnded = errors.New("the test host ended")
	// ErrBoot means that it did not come up.
	ErrBoot = errors.New("the test host did not come up")
)

// Options say what a host has. The zero value will do.
type Options struct {
	Memory string   // of QEMU's -m; "" is 4096M
	Keep   []string // files and directories to be seen there though they are below /tmp or /run
	Out    string   // the directory that is /out there, made if missing; "" is one that goes with the host
	Log    string   // where the serial console goes; "" is nowhere
	Logf   func(format string, args ...any)
	// Started, if not nil, is called when the host is up, just before the program starts.
	Started func()
}

// Run boots a host, runs the command there as foreground.Run does, and returns its exit
// status. However it
// ends, no QEMU is left behind.
func Run(ctx context.Context, o Options, c exec.Command, tty bool) (status int, err error) {
	image, err := imagecache.Build(ctx, "./guest/testhost/hostinit", guest.Options{
		Package: Kernel, ExtraModules: modules, Busybox: guest.NoBusybox,
	}, o.logf)
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "vmfs-testhost-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if o.Out == "" {
		o.Out = filepath.Join(dir, "out")
	}
	if o.Out, err = filepath.Abs(o.Out); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return 0, err
	}
	config, err := json.Marshal(spec.Config{Keep: o.Keep})
	if err != nil {
		return 0, err
	}
	configPath, socket := filepath.Join(dir, "config"), filepath.Join(dir, "exec.sock")
	if err := os.WriteFile(configPath, config, 0o644); err != nil {
		return 0, err
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	q, err := startQEMU(o, image, configPath, socket)
	if err != nil {
		return 0, err
	}
	defer q.end()
	go q.watch(ctx, cancel)

	conn, err := q.connect(ctx, socket)
	if err == nil {
		err = q.awaitReady(ctx)
	}
	if err != nil {
		return 0, q.because(ctx, err)
	}
	if o.Started != nil {
		o.Started()
	}
	status, err = foreground.Run(ctx, conn, c, tty)
	var start *exec.StartError
	if err != nil && !errors.As(err, &start) {
		return 0, q.because(ctx, err)
	}
	select {
	case <-q.exited:
	case <-time.After(endTime):
		o.logf("the test host did not power off within %v: its QEMU is killed", endTime)
	case <-ctx.Done():
	}
	return status, err
}

func (o *Options) logf(format string, args ...any) {
	if o.Logf != nil {
		o.Logf(format, args...)
	}
}

// qemu is a host's process.
type qemu struct {
	cmd    *osexec.Cmd
	serial *serial
	keys   io.WriteCloser
	exited chan struct{} // closed once it was waited for
}

func startQEMU(o Options, image *guest.Image, config, socket string) (*qemu, error) {
	comma := func(path string) string { return strings.ReplaceAll(path, ",", ",,") }
	memory := o.Memory
	if memory == "" {
		memory = "4096M"
	}
	q := &qemu{exited: make(chan struct{})}
	q.cmd = osexec.Command("qemu-system-x86_64",
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", memory,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", image.Kernel, "-initrd", image.Initrd,
		// Without the first two this kernel stops for good within minutes of load.
		"-append", "nohz=off highres=off no_timer_check console=ttyS0 loglevel=4 panic=-1 intel_iommu=on "+spec.Parameter+config,
		"-device", "intel-iommu,intremap=on",
		"-nic", "user,model=virtio-net-pci",
		"-device", "e1000e", // for a test of passthrough
		"-virtfs", "local,path=/,mount_tag="+spec.RootTag+",security_model=none,readonly=on,multidevs=remap",
		"-virtfs", "local,path="+comma(o.Out)+",mount_tag="+spec.OutTag+",security_model=none,multidevs=remap",
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=exec,server=on,wait=off,path="+comma(socket),
		"-device", "virtserialport,chardev=exec,name="+spec.Port)
	// Keys at a terminal are for the program, and a runner that is killed takes it along.
	q.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var err error
	if q.keys, err = q.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := q.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if q.serial, err = newSerial(o.Log); err != nil {
		return nil, err
	}
	q.cmd.Stderr = q.serial
	if err := q.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start QEMU (Debian: apt-get install qemu-system-x86): %w", err)
	}
	go func() {
		_, _ = io.Copy(q.serial, stdout) // ends with QEMU
		_ = q.cmd.Wait()                 // how it ended is on the serial line, if anywhere
		q.serial.close()
		close(q.exited)
	}()
	return q, nil
}

// end kills QEMU if it is there and waits for it.
func (q *qemu) end() {
	_ = q.cmd.Process.Kill() // an error is its end
	<-q.exited
}

// connect waits for QEMU to make the socket.
func (q *qemu) connect(ctx context.Context, socket string) (net.Conn, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			return conn, nil
		}
		select {
		case <-q.exited:
			return nil, err
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (q *qemu) awaitReady(ctx context.Context) error {
	limit := time.NewTimer(bootTime)
	defer limit.Stop()
	select {
	case <-q.serial.ready:
		return nil
	case <-q.exited:
		return ErrBoot
	case <-limit.C:
		return fmt.Errorf("%w within %v", ErrBoot, bootTime)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// watch ends the run of a host that stands still. A byte on the serial line is an
// interrupt, which has been seen to wake one; it gets some before it is given up.
func (q *qemu) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(nudgeAfter / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.exited:
			return
		case <-tick.C:
		}
		switch silent := q.serial.silence(); {
		case silent > stillAfter:
			cancel(fmt.Errorf("%w (%v)", ErrStill, silent.Round(time.Second)))
			return
		case silent > nudgeAfter:
			_, _ = io.WriteString(q.keys, "\n") // one that is gone is met elsewhere
		}
	}
}

// because says why a run failed, with the end of what the host said.
func (q *qemu) because(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, ErrStill) {
		err = cause
	} else if cause != nil {
		return cause
	} else {
		select {
		case <-q.exited:
			if !errors.Is(err, ErrBoot) {
				err = fmt.Errorf("%w before its program: %w", ErrEnded, err)
			}
		case <-time.After(time.Second):
		}
	}
	return fmt.Errorf("%w; its console ended with:\n%s", err, q.serial.tail())
}
