package chtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"vmfs/backends/cloudhypervisor/api"
)

// An answer is what a call comes to: a status, and what JSON makes of the body unless that is
// nil.
type answer struct {
	status int
	body   any
}

func done() answer { return answer{status: http.StatusNoContent} }

// refused is an error's chain of words, from the call's own on.
func refused(words ...string) answer {
	return answer{http.StatusInternalServerError, append([]string{"Error from API"}, words...)}
}

// missing is refused where the reason is that there is no VM.
func missing(words ...string) answer {
	a := refused(words...)
	a.status = http.StatusNotFound
	return a
}

// The words that many calls end with.
const (
	notCreated = "VM is not created"
	notRunning = "VM is not running"
	isCreated  = "VM is already created"
	devices    = "Error from device manager"
	invalid    = "Failed to validate config"
)

// A vmm is the state machine of Cloud Hypervisor's one VM.
type vmm struct {
	version string
	events  *eventFile
	guest   *guest // of a VM that is booted

	mu     sync.Mutex // guards all below; held by the call that is carried out
	config *api.VMConfig
	state  api.State        // of a booted VM; "" is one that is not
	actual int64            // the guest's memory, which follows while it runs
	ignore bool             // the guest does not listen to the power button
	marked bool             // the virtual CPUs have heard of an NMI since they were paused: the next is lost
	asked  bool             // to power off, and it has not yet
	lazy   bool             // its memory is still in the snapshot that it came from
	disks  map[string]int64 // sizes in bytes by id, of a booted VM
	taps   []*os.File
}

// call carries out one call. end says that the VMM is to end after its answer.
func (v *vmm) call(method, name string, body []byte, files []*os.File) (a answer, end bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	c, ok := calls[name]
	switch {
	case !ok:
		return answer{http.StatusNotFound, []string{"Not Found"}}, false
	case c.method == method && c.takes && len(body) == 0 && name == "vm.create":
		return answer{status: http.StatusBadRequest}, false
	case c.method != method, c.takes != (len(body) > 0):
		return answer{http.StatusBadRequest, []string{"Bad Request"}}, false
	}
	a, err := c.run(v, body, files)
	if err != nil {
		a = answer{http.StatusBadRequest, []string{"Failed to deserialize JSON", err.Error()}}
	}
	if a.status >= http.StatusBadRequest {
		for _, f := range files {
			_ = f.Close() // nothing was written
		}
	}
	return a, name == "vmm.shutdown"
}

// A call is one of the API's. An error is a body that is none.
type call struct {
	method string
	takes  bool // a body
	run    func(v *vmm, body []byte, files []*os.File) (answer, error)
}

// plainly is a call without a body.
func plainly(run func(v *vmm) answer) call {
	return call{"PUT", false, func(v *vmm, _ []byte, _ []*os.File) (answer, error) { return run(v), nil }}
}

// with is a call with a body, in whose zero value is what the body need not say.
func with[T any](zero func() T, run func(v *vmm, body T, files []*os.File) answer) call {
	return call{"PUT", true, func(v *vmm, b []byte, files []*os.File) (answer, error) {
		body := zero()
		if err := json.Unmarshal(b, &body); err != nil {
			return answer{}, err
		}
		return run(v, body, files), nil
	}}
}

func zero[T any]() T { var v T; return v }

// calls are those of the API that the fake has, which are those that api uses.
var calls = map[string]call{
	"vmm.ping":        {"GET", false, func(v *vmm, _ []byte, _ []*os.File) (answer, error) { return v.ping(), nil }},
	"vmm.shutdown":    plainly((*vmm).shutdownVMM),
	"vm.info":         {"GET", false, func(v *vmm, _ []byte, _ []*os.File) (answer, error) { return v.info(), nil }},
	"vm.create":       with(defaults, (*vmm).create),
	"vm.boot":         plainly((*vmm).boot),
	"vm.pause":        plainly((*vmm).pause),
	"vm.resume":       plainly((*vmm).resume),
	"vm.reboot":       plainly((*vmm).reboot),
	"vm.shutdown":     plainly((*vmm).shutdown),
	"vm.delete":       plainly((*vmm).delete),
	"vm.nmi":          plainly((*vmm).nmi),
	"vm.power-button": plainly((*vmm).powerButton),
	"vm.resize":       with(zero[api.Resize], (*vmm).resize),
	"vm.resize-disk":  with(zero[diskSize], (*vmm).resizeDisk),
	"vm.add-net":      with(zero[api.Net], (*vmm).addNet),
	"vm.snapshot":     with(zero[destination], (*vmm).snapshot),
	"vm.restore":      with(zero[source], (*vmm).restore),
}

type (
	diskSize struct {
		ID   string `json:"id"`
		Size int64  `json:"desired_size"`
	}
	destination struct {
		URL string `json:"destination_url"`
	}
	source struct {
		URL      string `json:"source_url"`
		Prefault bool   `json:"prefault"`
		api.Restore
	}
)

// defaults are of what vm.create need not say.
func defaults() api.VMConfig {
	return api.VMConfig{
		CPUs:    api.CPUs{Boot: 1, Max: 1},
		Memory:  api.Memory{Size: 512 << 20, HotplugMethod: api.HotplugACPI},
		Serial:  api.Console{Mode: api.ConsoleNull},
		Console: api.Console{Mode: "Tty"},
	}
}

func (v *vmm) ping() answer {
	return answer{http.StatusOK, api.Pong{
		BuildVersion: v.version, Version: strings.TrimPrefix(v.version, "v") + ".0",
		PID: os.Getpid(), Features: []string{"kvm"},
	}}
}

func (v *vmm) info() answer {
	if v.config == nil {
		return missing("The VM info is not available", notCreated)
	}
	i := api.Info{Config: *v.config, State: v.state, MemoryActualSize: v.config.Memory.Size}
	if v.state == "" {
		i.State = api.StateCreated
		return answer{http.StatusOK, i}
	}
	if v.state == api.StateRunning {
		v.actual = target(v.config)
	}
	i.MemoryActualSize = v.actual
	return answer{http.StatusOK, i}
}

func (v *vmm) create(config api.VMConfig, _ []*os.File) answer {
	if v.config != nil {
		return refused("The VM could not be created", isCreated)
	}
	// As the real one it keeps the VM also where the rest fails.
	v.config = &config
	if err := v.openSerial(); err != nil {
		return refused("The VM could not be created", "Error creating console devices", "Error creating console device", rust(err))
	}
	return done()
}

// rust is an error of the system as Rust prints it.
func rust(err error) string {
	var errno interface {
		error
		Is(error) bool
	}
	if e := new(os.PathError); errors.As(err, &e) {
		err = e.Err
	} else if e := new(os.SyscallError); errors.As(err, &e) {
		err = e.Err
	}
	if errors.As(err, &errno) {
		text := errno.Error()
		return fmt.Sprintf("%s%s (os error %d)", strings.ToUpper(text[:1]), text[1:], errno)
	}
	return err.Error()
}

func (v *vmm) boot() answer {
	const failed = "The VM could not boot"
	if v.state != "" {
		return refused(failed, isCreated)
	}
	v.events.write("vm", "booting", nil)
	switch a := v.begin(failed); {
	case v.config == nil:
		return missing(failed, "VM config is missing")
	case a.status != 0:
		return a
	}
	v.events.write("vm", "booted", nil)
	return done()
}

// begin lets the guest of a VM that is not booted begin. Its zero answer is success.
func (v *vmm) begin(failed string) answer {
	c := v.config
	if c == nil {
		return answer{}
	}
	v.marked = false
	if a := v.validate(failed); a.status != 0 {
		return a
	}
	v.disks = make(map[string]int64)
	disks, hostDevices := c.Disks, c.Devices
	c.Disks, c.Devices = nil, nil // a boot that fails at one of them leaves a configuration without any
	for i := range disks {
		d := &disks[i]
		if d.ID == "" {
			d.ID = fmt.Sprintf("_disk%d", i)
		}
		f, err := os.Open(d.Path)
		if err != nil {
			return refused(failed, devices, "Cannot open disk path", fmt.Sprintf("I/O error (path=%s op=open)", d.Path), rust(err))
		}
		if fi, err := f.Stat(); err == nil {
			v.disks[d.ID] = fi.Size()
		}
		magic := make([]byte, 4)
		_, _ = f.ReadAt(magic, 0) // a shorter image is raw
		_ = f.Close()             // nothing was written
		if d.ImageType == api.ImageRaw && string(magic) == "QFI\xfb" {
			return refused(failed, devices, "Disk image type does not match expected type: specified = raw, detected = qcow2")
		}
	}
	c.Disks = disks
	for _, d := range hostDevices {
		if _, err := os.Stat(d.Path); err != nil {
			return refused(failed, devices, "Cannot create a VFIO device", "invalid file path")
		}
	}
	c.Devices = hostDevices
	if err := v.openSerial(); err != nil {
		return refused(failed, "Error creating console devices", "Error creating console device", rust(err))
	}
	if err := v.guest.boot(c.Vsock); err != nil {
		return refused(failed, devices, rust(err))
	}
	// The kernel is read beside all this, and where that fails there is a VM that never ran.
	v.state, v.actual = api.StateCreated, target(c)
	if c.Payload.Kernel != "" {
		b, err := os.ReadFile(c.Payload.Kernel)
		if err != nil {
			return refused(failed, "Cannot open kernel file", rust(err))
		}
		if string(b) == NoKernel {
			return refused(failed, "Cannot load the kernel into memory",
				"Kernel Loader: failed to load bzImage kernel image: Kernel Loader: Invalid bzImage", "Kernel Loader: Invalid bzImage")
		}
	}
	v.guest.print(Ready)
	v.state = api.StateRunning
	return answer{}
}

// validate is what is looked at before anything is made. Its zero answer is success.
func (v *vmm) validate(failed string) answer {
	c := v.config
	wrong := func(words ...string) answer { return refused(append([]string{failed, invalid}, words...)...) }
	const payload = "Payload configuration is not bootable"
	switch {
	case c.Payload.Kernel == "" && c.Payload.Firmware == "":
		return wrong(payload, "No bootitem provided: neither firmware nor kernel")
	case c.Payload.Kernel != "" && c.Payload.Firmware != "":
		return wrong(payload, "Specifying a kernel is not supported when a firmware is provided")
	case c.CPUs.Max < c.CPUs.Boot:
		return wrong(fmt.Sprintf("Max CPUs (%d) lower than boot CPUs (%d)", c.CPUs.Max, c.CPUs.Boot))
	}
	if t := c.CPUs.Topology; t != nil && t.ThreadsPerCore*t.CoresPerDie*t.DiesPerPackage*t.Packages != c.CPUs.Max {
		return wrong("Product of CPU topology parts does not match maximum vCPU")
	}
	var ids []string
	for _, d := range c.Disks {
		ids = append(ids, d.ID)
	}
	for _, n := range c.Nets {
		ids = append(ids, n.ID)
	}
	if c.Balloon != nil {
		ids = append(ids, c.Balloon.ID)
	}
	for _, d := range c.Devices {
		ids = append(ids, d.ID)
	}
	if c.Vsock != nil {
		ids = append(ids, c.Vsock.ID)
		if c.Vsock.CID < 3 {
			return wrong(fmt.Sprintf("%d is a special VSOCK CID", c.Vsock.CID))
		}
	}
	for i, id := range ids {
		if id != "" && slices.Contains(ids[:i], id) {
			return wrong("Identifier " + id + " is not unique")
		}
	}
	return answer{}
}

// target is the memory that a guest which runs gets to.
func target(c *api.VMConfig) int64 {
	t := c.Memory.Size + c.Memory.HotpluggedSize
	if c.Balloon != nil {
		t -= c.Balloon.Size
	}
	return t
}

func (v *vmm) openSerial() error { return v.guest.openSerial(v.config.Serial) }

// end ends the guest, and forgets what was of its run.
func (v *vmm) end() {
	v.guest.end()
	v.state, v.asked, v.lazy = "", false, false
}

// transition is why the VM does not get from its state to another, "" if it does.
func (v *vmm) transition(to api.State) string {
	if v.state == to {
		return fmt.Sprintf("Invalid transition: InvalidStateTransition(%s, %s)", v.state, to)
	}
	return ""
}

func (v *vmm) pause() answer {
	const failed = "The VM could not be paused"
	if v.state == "" {
		return refused(failed, notRunning)
	}
	v.events.write("vm", "pausing", nil)
	if why := v.transition(api.StatePaused); why != "" {
		return refused(failed, "Cannot pause VM", "Failed to pause migratable component", why)
	}
	v.state, v.marked = api.StatePaused, false
	v.guest.stand(true)
	v.events.write("vm", "paused", nil)
	return done()
}

func (v *vmm) resume() answer {
	const failed = "The VM could not resume"
	if v.state == "" {
		return refused(failed, notRunning)
	}
	v.events.write("vm", "resuming", nil)
	if why := v.transition(api.StateRunning); why != "" {
		return refused(failed, "Cannot resume VM", "Failed to resume migratable component", why)
	}
	v.state = api.StateRunning
	v.guest.stand(false)
	v.events.write("vm", "resumed", nil)
	if v.asked {
		v.guest.later(v.powerOff)
	}
	return done()
}

func (v *vmm) reboot() answer {
	const failed = "The VM could not reboot"
	v.events.write("vm", "rebooting", nil)
	if v.state == "" {
		return missing(failed, notCreated)
	}
	v.end()
	if a := v.begin(failed); a.status != 0 {
		return a
	}
	v.events.write("vm", "rebooted", nil)
	return done()
}

func (v *vmm) shutdown() answer {
	if v.state == "" {
		return refused("The VM could not shutdown", notRunning)
	}
	v.end()
	v.events.write("vm", "shutdown", nil)
	return done()
}

func (v *vmm) delete() answer {
	if v.config == nil {
		return done()
	}
	if v.state != "" {
		v.shutdown()
	}
	v.guest.closeSerial()
	v.config = nil
	for _, f := range v.taps {
		_ = f.Close() // nothing is written to them
	}
	v.taps = nil
	v.events.write("vm", "deleted", nil)
	return done()
}

func (v *vmm) shutdownVMM() answer {
	v.delete()
	v.events.write("vmm", "shutdown", nil)
	return answer{status: http.StatusOK}
}

func (v *vmm) nmi() answer {
	if v.state == "" {
		return refused("Error triggering NMI", notRunning)
	}
	if v.state == api.StateRunning && !v.marked {
		v.guest.print("Uhhuh. NMI received")
	}
	v.marked = true
	return done()
}

func (v *vmm) powerButton() answer {
	if v.state == "" {
		return refused("Error triggering power button", notRunning)
	}
	v.asked = !v.ignore
	if v.asked && v.state == api.StateRunning {
		v.guest.later(v.powerOff)
	}
	return done()
}

// powerOff is what the guest does by itself.
func (v *vmm) powerOff() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.state == api.StateRunning {
		v.guest.print("reboot: Power down")
		v.shutdown()
	}
}

func (v *vmm) resize(r api.Resize, _ []*os.File) answer {
	const failed = "The VM could not be resized"
	c := v.config
	if c == nil {
		return missing(failed, notCreated)
	}
	if v.state == "" {
		if r.VCPUs != nil {
			c.CPUs.Boot = *r.VCPUs
		}
		if r.RAM != nil {
			c.Memory.Size = *r.RAM
		}
		if r.Balloon != nil && c.Balloon != nil {
			c.Balloon.Size = *r.Balloon
		}
		return done()
	}
	v.events.write("vm", "resizing", nil)
	if r.VCPUs != nil {
		if *r.VCPUs > c.CPUs.Max {
			return refused(failed, "Error from CPU manager", "Requested vCPUs exceed maximum")
		}
		c.CPUs.Boot = *r.VCPUs
	}
	if r.RAM != nil {
		const manager = "Memory manager error"
		switch {
		case c.Memory.HotplugMethod != api.HotplugVirtioMem:
			return refused(failed, "the fake knows virtio-mem alone")
		case *r.RAM < c.Memory.Size:
			return refused(failed, manager, fmt.Sprintf("Invalid resize request: desired_size = %d below boot size = %d", *r.RAM, c.Memory.Size))
		}
		if why := misfit(*r.RAM-c.Memory.Size, c.Memory); why != "" {
			return refused(failed, manager, "Failed to virtio-mem resize", "Resize invalid argument",
				"Failed to update virtio configuration: ResizeError("+why+")")
		}
		c.Memory.HotpluggedSize = *r.RAM - c.Memory.Size
	}
	if r.Balloon != nil {
		if c.Balloon == nil {
			return refused(failed, devices, "Missing virtio-balloon, can't proceed as expected")
		}
		c.Balloon.Size = *r.Balloon
	}
	v.events.write("vm", "resized", nil)
	return done()
}

// misfit is why virtio-mem does not take a size, "" if it does.
func misfit(size int64, m api.Memory) string {
	const block = 2 << 20
	switch {
	case size == m.HotpluggedSize:
		return fmt.Sprintf("new size 0x%x and requested_size are identical", size)
	case size > m.HotplugSize:
		return fmt.Sprintf("new size 0x%x is bigger than region_size 0x%x", size, m.HotplugSize)
	case size%block != 0:
		return fmt.Sprintf("new size 0x%x is not aligned on block_size 0x%x", size, block)
	}
	return ""
}

func (v *vmm) resizeDisk(r diskSize, _ []*os.File) answer {
	const failed = "The disk could not be resized"
	switch {
	case v.config == nil:
		return missing(failed, notCreated)
	case v.state == "":
		return refused(failed, "Failed resizing a disk image")
	}
	if _, ok := v.disks[r.ID]; !ok {
		return refused(failed, devices, "Failed to find device corresponding to the given identifier: "+r.ID)
	}
	for _, d := range v.config.Disks {
		if d.ID == r.ID {
			if err := os.Truncate(d.Path, r.Size); err != nil {
				return refused(failed, devices, rust(err))
			}
		}
	}
	v.disks[r.ID] = r.Size
	return done()
}

// sizeOf is a disk's size as the guest sees it.
func (v *vmm) sizeOf(id string) int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.disks[id]
}

func (v *vmm) addNet(n api.Net, files []*os.File) answer {
	const failed = "The network device could not be added to the VM"
	if v.config == nil {
		return missing(failed, notCreated)
	}
	if n.ID == "" {
		n.ID = fmt.Sprintf("_net%d", len(v.config.Nets))
	}
	if n.NumQueues == 0 {
		n.NumQueues = 2
	}
	if len(files) > 0 && n.NumQueues != 2*len(files) {
		return refused(failed, invalid, fmt.Sprintf("Number of queues (%d) to virtio_net does not match the number of FDs (%d)", n.NumQueues, len(files)))
	}
	v.config.Nets = append(v.config.Nets, n)
	v.taps = append(v.taps, files...)
	if v.state == "" {
		return done()
	}
	return answer{http.StatusOK, map[string]string{"id": n.ID, "bdf": "0000:00:05.0"}}
}

// The files of a snapshot.
const (
	configFile = "config.json"
	stateFile  = "state.json"
	memoryFile = "memory-ranges"
)

// directory is what a URL of a snapshot names, or why it names none.
func directory(url string) (dir, why string) {
	dir, ok := strings.CutPrefix(url, "file://")
	if !ok {
		return "", "Could not extract path from URL: " + url
	}
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return "", fmt.Sprintf("Destination is not a directory: %q", dir)
	}
	return dir, ""
}

func (v *vmm) snapshot(d destination, _ []*os.File) answer {
	const failed = "The VM could not be snapshotted"
	if v.state == "" {
		return refused(failed, notRunning)
	}
	if v.lazy {
		v.lazy = false // it reads on by itself, and is done when one asks again
		return refused(failed, "VM on-demand memory restore is still in progress")
	}
	v.events.write("vm", "snapshotting", nil)
	if v.state != api.StatePaused {
		return refused(failed, "Cannot snapshot VM", "Failed to snapshot migratable component", "Trying to snapshot while VM is running")
	}
	v.events.write("vm", "snapshotted", nil) // as the real one, before the files are there
	dir, why := directory(d.URL)
	if why != "" {
		return refused(failed, "Cannot send VM snapshot", "Failed to send migratable component snapshot", why)
	}
	config, err := json.Marshal(v.config)
	if err != nil {
		panic(err)
	}
	for _, f := range []struct {
		name, what string
		content    []byte
	}{
		{configFile, "VM config", config},
		{stateFile, "VM state", []byte("{}")},
		{memoryFile, "memory", make([]byte, 4096)},
	} {
		if err := create(filepath.Join(dir, f.name), f.content); err != nil {
			return refused(failed, "Cannot send VM snapshot", "Failed to send migratable component snapshot",
				"Error creating "+f.what+" snapshot file", rust(err))
		}
	}
	return done()
}

// create writes a file that is not there yet.
func create(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

func (v *vmm) restore(s source, files []*os.File) answer {
	const failed = "The VM could not be restored"
	n := 0
	for _, net := range s.Nets {
		n += net.Files
	}
	if n != len(files) {
		return answer{http.StatusBadRequest, []string{"Bad Request"}}
	}
	if v.config != nil {
		return refused(failed, isCreated)
	}
	receive := func(words ...string) answer {
		return refused(append([]string{failed, "Cannot restore VM"}, words...)...)
	}
	dir, why := directory(s.URL)
	if why != "" {
		return receive("Failed to send migratable component snapshot", why)
	}
	b, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil {
		return receive("Failed to receive migratable component snapshot", fmt.Sprintf("Error opening VM config snapshot file %q", filepath.Join(dir, configFile)), rust(err))
	}
	config := defaults()
	if err := json.Unmarshal(b, &config); err != nil {
		return receive("Failed to receive migratable component snapshot", "Error deserialising VM config snapshot", err.Error())
	}
	if s.Prefault && s.Memory == api.RestoreOnDemand {
		return refused(failed, invalid, "'prefault' cannot be combined with 'memory_restore_mode=ondemand'")
	}
	for _, name := range []string{stateFile, memoryFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return receive("Failed to receive migratable component snapshot", fmt.Sprintf("Error opening VM state snapshot file %q", filepath.Join(dir, name)), rust(err))
		}
	}
	v.config = &config
	v.events.write("vm", "restoring", nil)
	if a := v.begin(failed); a.status != 0 {
		v.config = nil
		v.events.write("vm", "deleted", nil)
		return a
	}
	v.taps = append(v.taps, files...)
	v.state, v.lazy = api.StatePaused, s.Memory == api.RestoreOnDemand
	v.guest.stand(true)
	v.events.write("vm", "restored", nil)
	if s.Resume {
		return v.resume()
	}
	return done()
}
