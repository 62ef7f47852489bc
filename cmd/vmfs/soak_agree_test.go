package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// processes are those of one VM.
type processes struct{ vmms, devices []int }

// processes returns the processes that run VMs of the server's directory, by VM.
func (k *soak) processes() map[string]processes {
	found := make(map[string]processes)
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		line, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil {
			continue
		}
		_, rest, ok := bytes.Cut(line, []byte(filepath.Join(k.state, "vms")+"/"))
		if !ok {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(d))
		name, _, _ := bytes.Cut(rest, []byte("/"))
		p := found[string(name)]
		switch argv := bytes.Split(line, []byte{0}); {
		case bytes.Contains(argv[0], []byte("qemu-system")):
			p.vmms = append(p.vmms, pid)
		case string(argv[0]) == "vmfs-vsock-device":
			p.devices = append(p.devices, pid)
		}
		found[string(name)] = p
	}
	return found
}

// usage is what a server takes.
type usage struct {
	fds int
	rss int64 // in bytes
}

func (u usage) String() string { return fmt.Sprintf("%d descriptors, %d MiB", u.fds, u.rss>>20) }

func (k *soak) usage() usage {
	dir := fmt.Sprintf("/proc/%d", k.cmd.Process.Pid)
	fds, err := os.ReadDir(dir + "/fd")
	require.NoError(k.t, err)
	status, err := os.ReadFile(dir + "/status")
	require.NoError(k.t, err)
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	require.NotNil(k.t, m)
	rss, err := strconv.ParseInt(string(m[1]), 10, 64)
	require.NoError(k.t, err)
	return usage{len(fds), rss << 10}
}

// idleUsage is usage when the server has done what it does at its start: the least
// of two seconds.
func (k *soak) idleUsage() usage {
	k.must("cat", "version") // which waits for the back ends' versions
	least := k.usage()
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if u := k.usage(); u.fds < least.fds {
			least = u
		}
	}
	return least
}

// A keptVM is what there is of it on disk.
type keptVM struct {
	Format  int
	UUID    string
	Phase   string
	Ran     bool
	Seq     uint64
	Process *struct{ PID int }
}

// agree waits until everything that is known of the VMs agrees.
func (k *soak) agree(step int) {
	a := k.attach()
	defer a.Close()
	k.heal(a)
	var wrong []string
	for end := time.Now().Add(soakGrace); ; time.Sleep(50 * time.Millisecond) {
		if wrong = k.compare(a); wrong == nil {
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	for _, w := range wrong {
		k.t.Errorf("step %d: %s", step, w)
	}
}

// heal makes the VMs that a client was kept from making again.
func (k *soak) heal(a attached) {
	for _, name := range k.names {
		text, err := a.read(name + "/config")
		if err != nil {
			require.NoError(k.t, k.makeOne(a, name))
			continue
		}
		if !strings.Contains(text, "hotplug=") {
			_ = a.send(name+"/ctl", "kill") // it may run as it is
			require.NoError(k.t, a.rmdir(name))
			require.NoError(k.t, k.makeOne(a, name))
		}
	}
}

// compare returns what does not agree.
func (k *soak) compare(a attached) (wrong []string) {
	procs := k.processes()
	live := 0
	entries, err := os.ReadDir(filepath.Join(k.state, "vms"))
	require.NoError(k.t, err)
	var dirs []string
	for _, e := range entries {
		dirs = append(dirs, e.Name())
	}
	if !slices.Equal(dirs, k.names) {
		wrong = append(wrong, fmt.Sprintf("vms/ has %v", dirs))
	}
	root, err := a.list("/")
	if err != nil {
		return append(wrong, err.Error())
	}
	var listed []string
	for _, e := range root {
		if vmOf(e.Name) != "" {
			listed = append(listed, e.Name)
		}
	}
	if !slices.Equal(listed, k.names) {
		wrong = append(wrong, fmt.Sprintf("the server lists %v", listed))
	}
	for _, name := range k.names {
		w, runs := k.compareVM(a, name, procs[name])
		for _, w := range w {
			wrong = append(wrong, name+": "+w)
		}
		if runs {
			live++
		}
		delete(procs, name)
	}
	for name, p := range procs {
		wrong = append(wrong, fmt.Sprintf("processes of %s, which there is not: %v", name, p))
	}
	// A VM that runs takes a connection for QMP and one for the console, a
	// descriptor of its process and of its device's, and a few more for a moment.
	if u := k.usage(); u.fds > k.fresh.fds+2+6*live {
		wrong = append(wrong, fmt.Sprintf("the server has %v with %d VMs; it began with %v", u, live, k.fresh))
	}
	return wrong
}

// ownFiles are what there may be in a VM's directory.
var ownFiles = []string{"config", "console.log", "console.log.1", "events", "log", "record.json", "run", "snapshots"}

// compareVM returns what of one VM does not agree, and whether it runs.
func (k *soak) compareVM(a attached, name string, procs processes) (wrong []string, live bool) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	dir := filepath.Join(k.state, "vms", name)
	read := func(file string) string {
		text, err := a.read(name + "/" + file)
		if err != nil {
			bad("%s: %v", file, err)
		}
		return text
	}
	var rec keptVM
	text, err := os.ReadFile(filepath.Join(dir, "record.json"))
	if err == nil {
		err = json.Unmarshal(text, &rec)
	}
	if err != nil {
		bad("record: %v", err)
	}
	state, info := read("state"), read("info")
	pid, _ := strconv.Atoi(read("pid"))
	read("config")
	live = state == "running" || state == "paused"
	if strings.Contains(info, "busy=") {
		bad("still busy: %s", info)
	}
	if strings.Contains(info, "not-answering") {
		bad("does not answer")
	}
	if !strings.Contains(info, "uuid="+rec.UUID+"\n") {
		bad("the record's uuid is %s: %s", rec.UUID, info)
	}

	sockets, _ := filepath.Glob(filepath.Join(dir, "run", "*"))
	sockets = slices.DeleteFunc(sockets, func(p string) bool {
		fi, err := os.Lstat(p)
		return err != nil || fi.Mode().Type() != os.ModeSocket
	})
	devices := 0
	if strings.Contains(read("config"), "vsock.cid=") {
		devices = 1
	}
	switch {
	case !live && state != map[bool]string{true: "shutdown", false: "created"}[rec.Ran]:
		bad("is %s, and the record's ran is %v", state, rec.Ran)
	case !live:
		if rec.Phase != "down" || rec.Process != nil || pid != 0 || procs.vmms != nil || procs.devices != nil || len(sockets) > 0 {
			bad("is %s with record %s, pid %d, processes %+v, sockets %v", state, text, pid, procs, sockets)
		}
	case rec.Phase != "running":
		bad("is %s, and the record's phase is %s", state, rec.Phase)
	case k.sim:
	case rec.Process == nil || rec.Process.PID != pid || !slices.Equal(procs.vmms, []int{pid}):
		bad("is %s with record %s, pid %d, processes %+v", state, text, pid, procs)
	case len(procs.devices) != devices:
		bad("is %s with vsock devices %v", state, procs.devices)
	default:
		if says := k.askQEMU(filepath.Join(dir, "run", "monitor.sock")); says != state {
			bad("is %s, and QEMU says %s", state, says)
		}
	}

	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !slices.Contains(ownFiles, e.Name()) {
			bad("leftover %s", e.Name())
		}
	}
	entries, _ = os.ReadDir(filepath.Join(dir, "snapshots"))
	listed, err := a.list(name + "/snapshots")
	if err != nil || len(listed) != len(entries) {
		bad("snapshots are %v, listed %v, %v", entries, listed, err)
	}
	for _, s := range listed {
		read("snapshots/" + s.Name + "/info")
		read("snapshots/" + s.Name + "/config")
	}
	if last, err := checkEvents(filepath.Join(dir, "events")); err != nil {
		bad("events: %v", err)
	} else {
		if last < k.seqs[rec.UUID] || last < rec.Seq {
			bad("the last event is %d; there were %d before, and the record has %d", last, k.seqs[rec.UUID], rec.Seq)
		}
		k.seqs[rec.UUID] = last
	}
	return wrong, live
}

// askQEMU returns the state that QEMU gives, as the contract has it.
func (k *soak) askQEMU(path string) string {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err.Error()
	}
	if _, err := fmt.Fprint(c, `{"execute":"qmp_capabilities"}{"execute":"query-status","id":"x"}`); err != nil {
		return err.Error()
	}
	dec := json.NewDecoder(c)
	for {
		var m struct {
			ID     string
			Return struct{ Status string }
		}
		if err := dec.Decode(&m); err != nil {
			return err.Error()
		}
		switch {
		case m.ID == "":
		case m.Return.Status == "running":
			return "running"
		case m.Return.Status == "shutdown":
			return "shutdown"
		default:
			return "paused"
		}
	}
}

// checkEvents returns the number of the last event kept.
func checkEvents(path string) (last uint64, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if line == "\n" { // after a line that a crash cut off
			continue
		}
		_, seq, _, err := parseEvent(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return last, err
		}
		if seq <= last {
			return last, fmt.Errorf("%d after %d", seq, last)
		}
		last = seq
	}
	return last, nil
}

// end ends the VMs and looks for what is left.
func (k *soak) end() {
	t := k.t
	a := k.attach()
	for _, name := range k.names {
		if state, err := a.read(name + "/state"); assert.NoError(t, err) && (state == "running" || state == "paused") {
			assert.NoError(t, a.send(name+"/ctl", "kill"))
		}
	}
	a.Close()
	k.agree(-1)
	var last usage
	assert.Eventually(t, func() bool { last = k.usage(); return last.fds <= k.fresh.fds }, patience, 100*time.Millisecond, "descriptors are left open")
	fmt.Printf("soak: the server began with %v and ends with %v\n", k.fresh, last)
	assert.Less(t, last.rss, 3*k.fresh.rss+128<<20, "memory")
	used := k.stacks()
	k.server.start()
	k.idleUsage()
	fresh := k.stacks()
	fmt.Printf("soak: %d goroutines at the end; a new server has %d\n", len(used), len(fresh))
	if len(used) > len(fresh) {
		t.Errorf("goroutines are left:\n%s", strings.Join(used, "\n\n"))
	}

	k.server.start()
	a = k.attach()
	for _, name := range k.names {
		assert.NoError(t, a.rmdir(name))
	}
	a.Close()
	left, err := os.ReadDir(filepath.Join(k.state, "vms"))
	assert.NoError(t, err)
	assert.Empty(t, left)
	assert.Empty(t, k.processes())
	for _, word := range []string{"DATA RACE", "panic:"} {
		assert.False(t, strings.Contains(k.log.String(), word), "the server's log has a %s", word)
	}
}

// stacks ends the server with the signal that makes it print its goroutines, and
// returns those but the runtime's own.
func (k *soak) stacks() []string {
	before := len(k.log.String())
	require.NoError(k.t, k.cmd.Process.Signal(syscall.SIGQUIT))
	_ = k.cmd.Wait() // a signal ended it
	k.cmd = nil
	text := k.log.String()[before:]
	all := strings.Split(text, "\n\n")
	return slices.DeleteFunc(all, func(s string) bool {
		s = strings.TrimSpace(s)
		return !strings.HasPrefix(s, "goroutine ") || strings.HasPrefix(s, "goroutine 0 ") ||
			strings.Contains(s, "created by runtime.") // of which there are more or fewer at any time
	})
}
