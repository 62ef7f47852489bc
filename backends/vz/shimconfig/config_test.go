package shimconfig

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func whole() *Config {
	return &Config{
		Name: "web", UUID: "6ba7b810-9dad-11d1-80b4-00c04fd430c8", CPUs: 2, Memory: 1 << 30, Target: 512 << 20,
		Boot:    Boot{Linux: &Linux{Kernel: "/vmlinuz", Initrd: "/initrd", Args: "quiet"}},
		Machine: []byte("an identifier"),
		Disks:   []Disk{{Path: "/disk.img", Readonly: true, Caching: CachingCached, Sync: SyncFsync}},
		Nets: []Net{
			{Kind: NetNAT, MAC: "52:54:00:00:00:01"},
			{Kind: NetBridged, MAC: "52:54:00:00:00:02", Interface: "en0"},
			{Kind: NetFile, MAC: "52:54:00:00:00:03", FD: 5},
		},
		Vsock:   &Vsock{Socket: "/run/vsock.sock"},
		Console: Console{Socket: "/run/console.sock", Log: "/console.log", LogMax: 1 << 20},
	}
}

func TestRoundTrip(t *testing.T) {
	b, err := Marshal(whole())
	require.NoError(t, err)
	back, err := Read(bytes.NewReader(b))
	require.NoError(t, err)
	want := whole()
	want.Version = Version
	assert.Equal(t, want, back)
}

// TestVersions is what a shim of one release says to a server of another.
func TestVersions(t *testing.T) {
	for version, says := range map[int]string{
		Version + 1:    "older than the server",
		MinVersion - 1: "newer than the server",
	} {
		// What a later version has must not be the complaint: it is the version.
		b, err := json.Marshal(map[string]any{"version": version, "rosetta": true})
		require.NoError(t, err)
		_, err = Read(bytes.NewReader(b))
		var v *VersionError
		require.ErrorAs(t, err, &v)
		assert.Equal(t, VersionError{Version: version, Min: MinVersion, Max: Version}, *v)
		require.ErrorIs(t, err, ErrInvalid)
		assert.ErrorContains(t, err, says)
	}
}

func TestReadRefuses(t *testing.T) {
	good, err := Marshal(whole())
	require.NoError(t, err)
	for name, text := range map[string]string{
		"empty":               "",
		"no JSON":             "name=web",
		"another type":        `{"version":"1"}`,
		"an unknown field":    strings.Replace(string(good), `"name"`, `"rosetta":true,"name"`, 1),
		"an unknown field of": strings.Replace(string(good), `"path"`, `"format":"qcow2","path"`, 1),
		"more behind it":      string(good) + "{}",
		"cut off":             string(good[:len(good)-1]),
		"too long":            strings.Repeat(" ", MaxSize) + string(good),
	} {
		_, err := Read(strings.NewReader(text))
		assert.ErrorIs(t, err, ErrInvalid, name)
	}
}

func TestCheck(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no CPU":               func(c *Config) { c.CPUs = 0 },
		"no memory":            func(c *Config) { c.Memory = 0 },
		"odd memory":           func(c *Config) { c.Memory++ },
		"a target above":       func(c *Config) { c.Target = c.Memory + 1<<20 },
		"an odd target":        func(c *Config) { c.Target = 5 },
		"lines in the name":    func(c *Config) { c.Name = "a\nb" },
		"a long identifier":    func(c *Config) { c.Machine = make([]byte, MaxMachine+1) },
		"no boot loader":       func(c *Config) { c.Boot = Boot{} },
		"two boot loaders":     func(c *Config) { c.Boot.EFI = &EFI{Variables: "/efi"} },
		"a relative kernel":    func(c *Config) { c.Boot.Linux.Kernel = "vmlinuz" },
		"a relative initrd":    func(c *Config) { c.Boot.Linux.Initrd = "initrd" },
		"arguments in lines":   func(c *Config) { c.Boot.Linux.Args = "a\nb" },
		"many arguments":       func(c *Config) { c.Boot.Linux.Args = strings.Repeat("a", MaxArgs+1) },
		"a relative disk":      func(c *Config) { c.Disks[0].Path = "disk" },
		"a caching mode":       func(c *Config) { c.Disks[0].Caching = "" },
		"a sync mode":          func(c *Config) { c.Disks[0].Sync = "often" },
		"many disks":           func(c *Config) { c.Disks = make([]Disk, MaxDisks+1) },
		"no MAC":               func(c *Config) { c.Nets[0].MAC = "" },
		"a kind":               func(c *Config) { c.Nets[0].Kind = "tap" },
		"an interface of NAT":  func(c *Config) { c.Nets[0].Interface = "en0" },
		"no interface":         func(c *Config) { c.Nets[1].Interface = "" },
		"no descriptor":        func(c *Config) { c.Nets[2].FD = 0 },
		"a descriptor of NAT":  func(c *Config) { c.Nets[0].FD = 5 },
		"many networks":        func(c *Config) { c.Nets = make([]Net, MaxNets+1) },
		"no vsock socket":      func(c *Config) { c.Vsock.Socket = "" },
		"no console":           func(c *Config) { c.Console.Socket = "" },
		"a relative log":       func(c *Config) { c.Console.Log = "log" },
		"less than no log":     func(c *Config) { c.Console.LogMax = -1 },
		"relative variables":   func(c *Config) { c.Boot = Boot{EFI: &EFI{Variables: "efi"}} },
		"a path with NUL":      func(c *Config) { c.Disks[0].Path = "/a\x00b" },
		"a path without bound": func(c *Config) { c.Disks[0].Path = "/" + strings.Repeat("a", MaxPath) },
	} {
		c := whole()
		change(c)
		assert.ErrorIs(t, c.Check(), ErrInvalid, name)
		_, err := Marshal(c)
		assert.ErrorIs(t, err, ErrInvalid, name)
	}
	c := whole()
	c.Boot = Boot{EFI: &EFI{Variables: "/efi"}}
	c.Vsock, c.Console.Log = nil, ""
	assert.NoError(t, c.Check())
}
