package chtest

import (
	"encoding/binary"
	"os"
	"strings"

	"github.com/stretchr/testify/require"

	"vmfs/backends/cloudhypervisor/api"
)

const mib = 1 << 20

// script is what is said to a Cloud Hypervisor: what vmfs says and what it has to tell apart, and
// what goes wrong. A scene begins with a new VMM.
var script = []struct {
	name string
	play func(p *player)
}{
	{"no VM", noVM},
	{"what is no request", noRequest},
	{"configurations that do not boot", badConfigs},
	{"a life", life},
	{"restore by copying", restoreCopy},
	{"restore on demand", restoreOnDemand},
}

func noVM(p *player) {
	p.get("who is it", "vmm.ping")
	p.get("no VM", "vm.info")
	for _, call := range []string{"vm.boot", "vm.pause", "vm.resume", "vm.reboot", "vm.shutdown", "vm.nmi", "vm.power-button", "vm.delete"} {
		p.put("no VM", call, "")
	}
	p.put("no VM", "vm.resize", `{"desired_ram":268435456}`)
	p.put("no VM", "vm.resize-disk", `{"id":"disk0","desired_size":1048576}`)
	p.put("no VM", "vm.add-net", `{"id":"net0"}`)
	p.put("no VM", "vm.snapshot", `{"destination_url":"file://$DIR"}`)
	p.put("no snapshot", "vm.restore", `{"source_url":"file://$DIR"}`)
	p.put("no directory", "vm.restore", `{"source_url":"file://$DIR/nowhere"}`)
	p.put("no URL", "vm.restore", `{"source_url":"$DIR"}`)
}

func noRequest(p *player) {
	p.put("no such call", "vm.nothing", "")
	p.put("the wrong method", "vm.info", "")
	p.get("the wrong method", "vm.boot")
	p.put("a body where there is none", "vm.boot", `{}`)
	p.put("no body where there is one", "vm.create", "")
	p.put("no body where there is one", "vm.resize", "")
	p.put("an unknown field", "vm.create", `{"bad":1}`)
	p.get("which makes a VM", "vm.info")
	p.put("that does not boot", "vm.boot", "")
	p.put("another VM", "vm.create", `{"payload":{"kernel":"$KERNEL"}}`)
	p.put("is what a snapshot is, too", "vm.restore", `{"source_url":"file://$DIR"}`)
	p.put("and deleting it", "vm.delete", "")
	p.get("leaves no VM", "vm.info")
}

// config is a VM whose guest boots, with what is put in front of its end.
func config(more string) string {
	return `{"cpus":{"boot_vcpus":1,"max_vcpus":1},"memory":{"size":268435456,"hotplug_size":268435456,"hotplug_method":"VirtioMem"},` +
		`"payload":{"kernel":"$KERNEL","initramfs":"$INITRD","cmdline":"console=ttyS0 quiet no_timer_check"},"console":{"mode":"Off"}` + more + `}`
}

const serial = `,"serial":{"mode":"Socket","socket":"$DIR/serial.sock"}`

func badConfigs(p *player) {
	write := func(name, content string, size int64) {
		require.NoError(p.t, os.WriteFile(p.path(name), []byte(content), 0o600))
		require.NoError(p.t, os.Truncate(p.path(name), size))
	}
	// A qcow2 of version 3 with clusters of 64 KiB, as qemu-img makes one of 1 MiB.
	header := binary.BigEndian.AppendUint32([]byte("QFI\xfb"), 3)
	header = append(header, make([]byte, 12)...) // no backing file
	header = binary.BigEndian.AppendUint32(header, 16)
	header = binary.BigEndian.AppendUint64(header, mib)
	header = binary.BigEndian.AppendUint32(header, 0)       // no encryption
	header = binary.BigEndian.AppendUint32(header, 1)       // L1 entries
	header = binary.BigEndian.AppendUint64(header, 0x30000) // L1 table
	header = binary.BigEndian.AppendUint64(header, 0x10000) // refcount table
	header = binary.BigEndian.AppendUint32(header, 1)       // its clusters
	header = append(header, make([]byte, 36)...)            // no snapshots, no features
	header = binary.BigEndian.AppendUint32(header, 4)       // 16 bits a refcount
	header = binary.BigEndian.AppendUint32(header, 104)     // length of this
	write("qcow2.raw", string(header), mib)
	write("kernel.txt", NoKernel, int64(len(NoKernel)))
	for _, c := range []struct{ what, config string }{
		{"no kernel", `{"payload":{"kernel":"$DIR/nowhere"},"console":{"mode":"Off"}}`},
		{"a kernel that is none", `{"payload":{"kernel":"$DIR/kernel.txt"},"console":{"mode":"Off"}}`},
		{"kernel and firmware", `{"payload":{"kernel":"$KERNEL","firmware":"$KERNEL"},"console":{"mode":"Off"}}`},
		{"fewer virtual CPUs than at the boot", `{"payload":{"kernel":"$KERNEL"},"cpus":{"boot_vcpus":2,"max_vcpus":1},"console":{"mode":"Off"}}`},
		{"a topology of other CPUs", `{"payload":{"kernel":"$KERNEL"},"cpus":{"boot_vcpus":1,"max_vcpus":1,"topology":{"threads_per_core":1,"cores_per_die":2,"dies_per_package":1,"packages":1}},"console":{"mode":"Off"}}`},
		{"no disk", config(`,"disks":[{"id":"disk0","path":"$DIR/nowhere","image_type":"Raw","backing_files":false}]`)},
		{"a raw disk that begins as another", config(`,"disks":[{"id":"disk0","path":"$DIR/qcow2.raw","image_type":"Raw","backing_files":false}]`)},
		{"the same name twice", config(`,"balloon":{"id":"x","size":0},"vsock":{"id":"x","cid":3,"socket":"$DIR/vsock.sock"}`)},
		{"a device that is none", config(`,"devices":[{"id":"pci0","path":"/sys/bus/pci/devices/ffff:ff:1f.7"}]`)},
	} {
		p.put(c.what, "vm.create", c.config)
		p.put(c.what, "vm.boot", "")
		p.get("is still a VM", "vm.info")
		p.put("and can be deleted", "vm.delete", "")
	}
	p.put("the host's CID", "vm.create", config(`,"vsock":{"cid":2,"socket":"$DIR/vsock.sock"}`))
	p.put("the host's CID", "vm.boot", "")
	p.put("the host's CID", "vm.delete", "")

	write("serial.sock", "", 0)
	p.put("a serial socket that is there already", "vm.create", config(serial))
	p.get("leaves a VM", "vm.info")
	require.NoError(p.t, os.Remove(p.path("serial.sock")))
	p.put("that can be deleted", "vm.delete", "")
}

func life(p *player) {
	require.NoError(p.t, os.WriteFile(p.path("disk.raw"), nil, 0o600))
	require.NoError(p.t, os.Truncate(p.path("disk.raw"), 16*mib))
	p.put("a VM", "vm.create", config(serial+`,"balloon":{"id":"balloon","size":0,"deflate_on_oom":true},`+
		`"vsock":{"id":"vsock","cid":42,"socket":"$DIR/vsock.sock"},"pvpanic":true,"platform":{"system_uuid":"6f1c5b3e-0d5c-4f5a-9a51-b0a2a3a4c5d6"},`+
		`"disks":[{"id":"disk0","path":"$DIR/disk.raw","image_type":"Raw","backing_files":false,"serial":"d0","rate_limiter_config":{"bandwidth":{"size":10485760,"one_time_burst":1048576,"refill_time":1000}}}]`))
	p.info("is created", is(api.StateCreated))
	p.put("not booted", "vm.pause", "")
	p.put("not booted", "vm.resize", `{"desired_ram":201326592,"desired_balloon":4096}`)
	p.info("changes the configuration", is(api.StateCreated))
	p.put("and back", "vm.resize", `{"desired_ram":268435456,"desired_balloon":0}`)
	p.put("not booted", "vm.resize-disk", `{"id":"disk0","desired_size":33554432}`)
	p.put("not booted", "vm.snapshot", `{"destination_url":"file://$DIR"}`)
	p.put("boot", "vm.boot", "")
	p.put("boot again", "vm.boot", "")
	p.put("create again", "vm.create", config(""))
	p.put("restore where a VM runs", "vm.restore", `{"source_url":"file://$DIR"}`)
	p.ready()
	p.info("is running", is(api.StateRunning))

	p.put("resume what runs", "vm.resume", "")
	p.put("pause", "vm.pause", "")
	p.put("pause again", "vm.pause", "")
	p.info("is paused", is(api.StatePaused))
	p.put("resume", "vm.resume", "")

	p.put("no change", "vm.resize", `{}`)
	p.put("the size it has", "vm.resize", `{"desired_ram":268435456}`)
	p.put("more", "vm.resize", `{"desired_ram":402653184}`)
	p.info("which the guest takes", has(384*mib))
	p.put("the size it has", "vm.resize", `{"desired_ram":402653184}`)
	p.put("below the boot size", "vm.resize", `{"desired_ram":134217728}`)
	p.put("above boot size and hot-plug size", "vm.resize", `{"desired_ram":1073741824}`)
	p.put("between two steps", "vm.resize", `{"desired_ram":403177472}`)
	p.put("as at the boot", "vm.resize", `{"desired_ram":268435456}`)
	p.info("which the guest gives", has(256*mib))
	p.put("the balloon", "vm.resize", `{"desired_balloon":67108864}`)
	p.info("which it fills", has(192*mib))
	p.put("the balloon, the same", "vm.resize", `{"desired_balloon":67108864}`)
	p.put("no balloon", "vm.resize", `{"desired_balloon":0}`)
	p.info("which it empties", has(256*mib))
	p.put("too many virtual CPUs", "vm.resize", `{"desired_vcpus":2}`)

	p.put("a larger disk", "vm.resize-disk", `{"id":"disk0","desired_size":33554432}`)
	p.put("no such disk", "vm.resize-disk", `{"id":"disk9","desired_size":33554432}`)
	fi, err := os.Stat(p.path("disk.raw"))
	require.NoError(p.t, err)
	require.EqualValues(p.t, 32*mib, fi.Size(), "size of the disk's image")

	p.put("snapshot of what runs", "vm.snapshot", `{"destination_url":"file://$DIR"}`)
	p.put("pause", "vm.pause", "")
	p.put("snapshot into nowhere", "vm.snapshot", `{"destination_url":"file://$DIR/nowhere"}`)
	require.NoError(p.t, os.Mkdir(p.path("snapshot"), 0o700))
	p.put("snapshot", "vm.snapshot", `{"destination_url":"file://$DIR/snapshot"}`)
	p.put("snapshot where one is", "vm.snapshot", `{"destination_url":"file://$DIR/snapshot"}`)
	p.info("is still paused", is(api.StatePaused))
	p.put("power button of what is paused", "vm.power-button", "")
	p.put("resume", "vm.resume", "")
	p.info("powers off", is(api.StateCreated))
	p.put("shut down what is not booted", "vm.shutdown", "")
	p.put("pause what is not booted", "vm.pause", "")

	p.put("boot", "vm.boot", "")
	p.ready()
	p.put("NMI", "vm.nmi", "")
	p.info("goes on", is(api.StateRunning))
	p.put("reboot", "vm.reboot", "")
	p.ready()
	p.info("is running", is(api.StateRunning))
	p.put("shut down", "vm.shutdown", "")
	p.info("is created", is(api.StateCreated))
	p.put("reboot what is not booted", "vm.reboot", "")
	p.put("delete", "vm.delete", "")
}

func restoreCopy(p *player) {
	p.put("restore", "vm.restore", `{"source_url":"file://$DIR/snapshot","memory_restore_mode":"Copy"}`)
	p.info("is paused", is(api.StatePaused))
	p.put("again", "vm.restore", `{"source_url":"file://$DIR/snapshot","memory_restore_mode":"Copy"}`)
	p.put("resume", "vm.resume", "")
	p.info("is running", is(api.StateRunning))
	p.put("delete what runs", "vm.delete", "")
}

func restoreOnDemand(p *player) {
	for _, name := range []string{"config.json", "state.json", "memory-ranges"} {
		b, err := os.ReadFile(p.path("snapshot/" + name))
		require.NoError(p.t, err)
		if name == "config.json" {
			b = []byte(strings.ReplaceAll(string(b), `"cid":42`, `"cid":43`))
		}
		require.NoError(p.t, os.MkdirAll(p.path("fork"), 0o700))
		require.NoError(p.t, os.WriteFile(p.path("fork/"+name), b, 0o600))
	}
	p.put("restore", "vm.restore", `{"source_url":"file://$DIR/fork","memory_restore_mode":"OnDemand","prefault":true}`)
	p.put("restore", "vm.restore", `{"source_url":"file://$DIR/fork","memory_restore_mode":"OnDemand","resume":true}`)
	p.info("is running", is(api.StateRunning))
	p.put("snapshot of what runs", "vm.snapshot", `{"destination_url":"file://$DIR/fork"}`)
	p.put("delete what runs", "vm.delete", "")
	require.NoError(p.t, os.Remove(p.path("fork/state.json")))
	p.put("half a snapshot", "vm.restore", `{"source_url":"file://$DIR/fork"}`)
	p.put("leaves no VM", "vm.boot", "")
}
