package api

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// specVariable names the API description that Cloud Hypervisor publishes, as it is in its source
// (vmm/src/api/openapi/cloud-hypervisor.yaml) of the oldest version that vmfs supports.
const specVariable = "VMFS_CLOUD_HYPERVISOR_SPEC"

// digestFile has the names in that description, and nothing else of it. It is made by
//
//	VMFS_CLOUD_HYPERVISOR_SPEC=FILE go test ./backends/cloudhypervisor/api -run TestDescription -digest
const digestFile = "testdata/names.json"

var writeDigest = flag.Bool("digest", false, "write "+digestFile)

// A digest is the names of an API description: calls, with the schemas of their bodies and
// answers, and the fields of the schemas, with the schemas of those.
type digest struct {
	Calls   map[string]digestCall        `json:"calls"`
	Schemas map[string]map[string]string `json:"schemas"`
}

type digestCall struct {
	Method string `json:"method"`
	Body   string `json:"body,omitempty"`
	Answer string `json:"answer,omitempty"`
}

// digestOf takes the names out of a description.
func digestOf(t *testing.T, file string) digest {
	doc, err := openapi3.NewLoader().LoadFromFile(file)
	require.NoError(t, err)
	name := func(ref *openapi3.SchemaRef) string { return ref.Ref[strings.LastIndexByte(ref.Ref, '/')+1:] }
	d := digest{make(map[string]digestCall), make(map[string]map[string]string)}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			c := digestCall{Method: method}
			if op.RequestBody != nil {
				c.Body = name(op.RequestBody.Value.Content["application/json"].Schema)
			}
			if ok := op.Responses.Value("200"); ok != nil && ok.Value.Content["application/json"] != nil {
				c.Answer = name(ok.Value.Content["application/json"].Schema)
			}
			d.Calls[strings.TrimPrefix(path, "/")] = c
		}
	}
	for schema, ref := range doc.Components.Schemas {
		fields := make(map[string]string)
		for field, ref := range ref.Value.Properties {
			if ref.Value.Items != nil {
				ref = ref.Value.Items
			}
			fields[field] = name(ref)
		}
		if len(fields) > 0 {
			d.Schemas[schema] = fields
		}
	}
	return d
}

func readDigest(t *testing.T) (d digest) {
	b, err := os.ReadFile(digestFile)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &d))
	return d
}

// TestDescription holds the digest to the description, where that is.
func TestDescription(t *testing.T) {
	file := os.Getenv(specVariable)
	if file == "" {
		t.Skipf("$%s does not name Cloud Hypervisor's API description: %s is believed", specVariable, digestFile)
	}
	d := digestOf(t, file)
	if *writeDigest {
		b, err := json.MarshalIndent(d, "", "\t")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(digestFile, append(b, '\n'), 0o644))
	}
	assert.Equal(t, d, readDigest(t), "make it again: see digestFile")
}

// TestTypes holds what the client sends, with every field, to the description's types.
func TestTypes(t *testing.T) {
	file := os.Getenv(specVariable)
	if file == "" {
		t.Skipf("$%s does not name Cloud Hypervisor's API description", specVariable)
	}
	doc, err := openapi3.NewLoader().LoadFromFile(file)
	require.NoError(t, err)
	net := Net{ID: "n", MAC: "02:00:00:00:00:01", NumQueues: 2}
	for schema, body := range map[string]any{
		"VmConfig": VMConfig{
			CPUs:    CPUs{Boot: 1, Max: 2, Topology: &Topology{ThreadsPerCore: 1, CoresPerDie: 2, DiesPerPackage: 1, Packages: 1}},
			Memory:  Memory{Size: 1 << 28, HotplugSize: 1 << 28, HotplugMethod: HotplugVirtioMem, HotpluggedSize: 1 << 20},
			Payload: Payload{Firmware: "/f", Kernel: "/k", Cmdline: "c", Initramfs: "/i"},
			Disks: []Disk{{
				ID: "d", Path: "/d", ReadOnly: true, ImageType: ImageQcow2, BackingFiles: true, Serial: "s",
				RateLimiter: &RateLimiter{Bandwidth: &TokenBucket{Size: 1, OneTimeBurst: 2, RefillTime: 3}},
			}},
			Nets:     []Net{net},
			Balloon:  &Balloon{ID: "b", Size: 1, DeflateOnOOM: true},
			Serial:   Console{Mode: ConsoleSocket, Socket: "/s"},
			Console:  Console{Mode: ConsoleFile, File: "/c"},
			Devices:  []Device{{ID: "p", Path: "/p"}},
			Vsock:    &Vsock{ID: "v", CID: 3, Socket: "/v"},
			PVPanic:  true,
			Platform: &Platform{UUID: "u"},
		},
		"NetConfig":        net,
		"VmResize":         Resize{VCPUs: new(1), RAM: new(int64(1)), Balloon: new(int64(0))},
		"VmResizeDisk":     diskSize{"d", 1},
		"VmSnapshotConfig": snapshotTo{"file:///s"},
		"RestoreConfig":    restoreFrom{"file:///s", Restore{Memory: RestoreOnDemand, Resume: true, Nets: []RestoredNet{{"n", 1}}}},
	} {
		b, err := json.Marshal(body)
		require.NoError(t, err)
		var v any
		require.NoError(t, json.Unmarshal(b, &v))
		assert.NoError(t, doc.Components.Schemas[schema].Value.VisitJSON(v), schema)
	}
}

// uses are the calls that the client makes, with the types of bodies and answers.
var uses = map[string]struct{ body, answer any }{
	"vmm.ping":        {nil, Pong{}},
	"vmm.shutdown":    {nil, nil},
	"vm.info":         {nil, Info{}},
	"vm.create":       {VMConfig{}, nil},
	"vm.add-net":      {Net{}, nil},
	"vm.boot":         {nil, nil},
	"vm.pause":        {nil, nil},
	"vm.resume":       {nil, nil},
	"vm.reboot":       {nil, nil},
	"vm.nmi":          {nil, nil},
	"vm.power-button": {nil, nil},
	"vm.shutdown":     {nil, nil},
	"vm.delete":       {nil, nil},
	"vm.resize":       {Resize{}, nil},
	"vm.resize-disk":  {diskSize{}, nil},
	"vm.snapshot":     {snapshotTo{}, nil},
	"vm.restore":      {restoreFrom{}, nil},
}

// Why a call, or a field of one that is used, is not.
const (
	plugging   = "vmfs gives a VM its devices when it starts: none of its keys adds or takes one while it runs"
	migration  = "vmfs moves no VM between hosts while it runs"
	topology   = "PCI segments and places on the bus are Cloud Hypervisor's own choice: the guest sees devices by name"
	viommu     = "no key asks for a virtual IOMMU"
	queues     = "no key sets the number or length of queues; one pair is what a tap has"
	vhostUser  = "a device whose other half is another process: QEMU's back end has no key for one either"
	hugePages  = "no key asks for a kind of host memory"
	numa       = "no key asks for NUMA"
	smbios     = "no key sets what the firmware tables say beyond the UUID"
	cc         = "confidential guests are no aim of vmfs"
	byTap      = "the tap goes along as a descriptor, which vmfs has made, named and given its address"
	offloads   = "what a tap can take over is negotiated with the guest"
	noDevice   = "no key asks for this device"
	atDefault  = "Cloud Hypervisor's default is what vmfs wants"
	fromInside = "what Cloud Hypervisor tells of its devices is in no file of vmfs"
)

// unusedCalls says why the client does not make a call.
var unusedCalls = map[string]string{
	"vm.counters":               "no file of vmfs shows counters",
	"vm.coredump":               "only in a Cloud Hypervisor that was built to debug guests",
	"vm.resize-zone":            numa,
	"vm.add-device":             plugging,
	"vm.add-disk":               plugging,
	"vm.add-fs":                 plugging,
	"vm.add-generic-vhost-user": plugging,
	"vm.add-pmem":               plugging,
	"vm.add-vsock":              plugging,
	"vm.add-vdpa":               plugging,
	"vm.add-user-device":        plugging,
	"vm.remove-device":          plugging,
	"vm.receive-migration":      migration,
	"vm.send-migration":         migration,
}

// unusedFields says why a field of a schema that is used is not.
var unusedFields = map[string]string{
	"VmInfo.device_tree": fromInside,

	"VmConfig.rate_limit_groups":  "every disk has a limit of its own",
	"VmConfig.rng":                atDefault,
	"VmConfig.fs":                 vhostUser,
	"VmConfig.generic-vhost-user": vhostUser,
	"VmConfig.pmem":               noDevice,
	"VmConfig.debug_console":      noDevice,
	"VmConfig.user_devices":       vhostUser,
	"VmConfig.vdpa":               noDevice,
	"VmConfig.numa":               numa,
	"VmConfig.iommu":              viommu,
	"VmConfig.watchdog":           noDevice,
	"VmConfig.rtc":                noDevice,
	"VmConfig.pci_segments":       topology,
	"VmConfig.tpm":                noDevice,
	"VmConfig.landlock_enable":    "it needs Linux 6.2, and where it cannot be it leaves a VM that is not confined: the VMM is confined by its user instead",
	"VmConfig.landlock_rules":     "see landlock_enable",

	"PayloadConfig.igvm":      cc,
	"PayloadConfig.host_data": cc,

	"CpusConfig.kvm_hyperv":      atDefault,
	"CpusConfig.max_phys_bits":   atDefault,
	"CpusConfig.nested":          atDefault,
	"CpusConfig.affinity":        "no key binds virtual CPUs to the host's",
	"CpusConfig.features":        atDefault,
	"CpusConfig.core_scheduling": atDefault,

	"MemoryConfig.mergeable":     hugePages,
	"MemoryConfig.shared":        vhostUser,
	"MemoryConfig.hugepages":     hugePages,
	"MemoryConfig.hugepage_size": hugePages,
	"MemoryConfig.prefault":      hugePages,
	"MemoryConfig.reserve":       hugePages,
	"MemoryConfig.thp":           hugePages,
	"MemoryConfig.zones":         numa,

	"DiskConfig.direct":           "the host's page cache, as with QEMU",
	"DiskConfig.iommu":            viommu,
	"DiskConfig.num_queues":       queues,
	"DiskConfig.queue_size":       queues,
	"DiskConfig.vhost_user":       vhostUser,
	"DiskConfig.vhost_socket":     vhostUser,
	"DiskConfig.pci_segment":      topology,
	"DiskConfig.pci_device_id":    topology,
	"DiskConfig.rate_limit_group": "every disk has a limit of its own",
	"DiskConfig.queue_affinity":   queues,
	"DiskConfig.sparse":           atDefault,
	"DiskConfig.lock_granularity": atDefault,

	"RateLimiterConfig.ops": "bps and burst count bytes",

	"NetConfig.tap":                 byTap,
	"NetConfig.ip":                  "it is the host's tap's: the guest's goes on its kernel's command line",
	"NetConfig.mask":                "see ip",
	"NetConfig.host_mac":            byTap,
	"NetConfig.mtu":                 byTap,
	"NetConfig.iommu":               viommu,
	"NetConfig.queue_size":          queues,
	"NetConfig.vhost_user":          vhostUser,
	"NetConfig.vhost_socket":        vhostUser,
	"NetConfig.vhost_mode":          vhostUser,
	"NetConfig.pci_segment":         topology,
	"NetConfig.pci_device_id":       topology,
	"NetConfig.rate_limiter_config": "no key limits a network device",
	"NetConfig.offload_tso":         offloads,
	"NetConfig.offload_ufo":         offloads,
	"NetConfig.offload_csum":        offloads,

	"BalloonConfig.pci_segment":         topology,
	"BalloonConfig.pci_device_id":       topology,
	"BalloonConfig.iommu":               viommu,
	"BalloonConfig.free_page_reporting": atDefault,

	"ConsoleConfig.iommu":         viommu,
	"ConsoleConfig.id":            topology,
	"ConsoleConfig.pci_segment":   topology,
	"ConsoleConfig.pci_device_id": topology,

	"DeviceConfig.iommu":                 viommu,
	"DeviceConfig.pci_segment":           topology,
	"DeviceConfig.pci_device_id":         topology,
	"DeviceConfig.x_nv_gpudirect_clique": noDevice,
	"DeviceConfig.x_exclude_mmap_bars":   atDefault,

	"VsockConfig.iommu":         viommu,
	"VsockConfig.pci_segment":   topology,
	"VsockConfig.pci_device_id": topology,

	"PlatformConfig.num_pci_segments":         topology,
	"PlatformConfig.iommu_segments":           viommu,
	"PlatformConfig.iommu_address_width_bits": viommu,
	"PlatformConfig.system_serial_number":     smbios,
	"PlatformConfig.serial_number":            smbios,
	"PlatformConfig.uuid":                     "the old name of system_uuid",
	"PlatformConfig.oem_strings":              smbios,
	"PlatformConfig.system_manufacturer":      smbios,
	"PlatformConfig.system_product_name":      smbios,
	"PlatformConfig.system_version":           smbios,
	"PlatformConfig.system_family":            smbios,
	"PlatformConfig.system_sku_number":        smbios,
	"PlatformConfig.chassis_asset_tag":        smbios,
	"PlatformConfig.tdx":                      cc,
	"PlatformConfig.sev_snp":                  cc,
	"PlatformConfig.iommufd":                  atDefault,
	"PlatformConfig.vfio_p2p_dma":             atDefault,

	"RestoreConfig.prefault": "it excludes reading memory on demand, and there is no gain in it for copying",
}

// beyond are fields that are used and that the description leaves out, as the source has them.
var beyond = map[string]string{
	"RestoreConfig.net_fds": "which devices the descriptors are for that come along",
}

// TestUnused lists what of the description is not used, and fails for what has no reason, for a
// reason without effect, and for what the client has and the description has not.
func TestUnused(t *testing.T) {
	d := readDigest(t)
	reasons := maps.Clone(unusedFields)
	outside := maps.Clone(beyond)
	var report []string

	// walk compares a type with its schema. One that is used in two places is, if it is in one.
	type pair struct {
		schema string
		typ    reflect.Type
	}
	seen := make(map[pair]bool)
	var walk func(schema string, typ reflect.Type)
	walk = func(schema string, typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		fields, ok := d.Schemas[schema]
		if seen[pair{schema, typ}] || !ok || typ.Kind() != reflect.Struct {
			return
		}
		seen[pair{schema, typ}] = true
		have := make(map[string]reflect.Type)
		for _, f := range reflect.VisibleFields(typ) {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
				have[name] = f.Type
			}
		}
		for name, ftyp := range have {
			if _, ok := fields[name]; ok {
				walk(fields[name], ftyp)
				continue
			}
			assert.Contains(t, beyond, schema+"."+name, "%s has a field that is not in the description", typ)
			delete(outside, schema+"."+name)
		}
		for name := range fields {
			if _, ok := have[name]; ok {
				continue
			}
			reason, ok := unusedFields[schema+"."+name]
			assert.True(t, ok, "%s.%s is not used: say why", schema, name)
			delete(reasons, schema+"."+name)
			report = append(report, fmt.Sprintf("%s.%s: %s", schema, name, reason))
		}
	}
	for call, u := range uses {
		described, ok := d.Calls[call]
		if !assert.True(t, ok, "%s is not in the description", call) {
			continue
		}
		assert.Equal(t, u.body != nil, described.Body != "", "%s takes a body", call)
		assert.Equal(t, u.answer != nil, described.Answer != "" && described.Answer != "PciDeviceInfo", "%s answers", call)
		if u.body != nil {
			walk(described.Body, reflect.TypeOf(u.body))
		}
		if u.answer != nil {
			walk(described.Answer, reflect.TypeOf(u.answer))
		}
	}
	for call := range d.Calls {
		_, used := uses[call]
		reason, unused := unusedCalls[call]
		assert.NotEqual(t, used, unused, "%s is to be either used or not used for a reason", call)
		if unused {
			report = append(report, call+": "+reason)
		}
	}
	for call := range unusedCalls {
		assert.Contains(t, d.Calls, call)
	}
	assert.Empty(t, reasons, "reasons for what is used, or is not in the description")
	assert.Empty(t, outside, "what is in the description now, or not used")
	slices.Sort(report)
	t.Logf("not used of Cloud Hypervisor's API:\n%s", strings.Join(report, "\n"))
}
