package agent

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseCmdline(t *testing.T) {
	c := parseCmdline("console=ttyS0 quiet vmfs.net=user  vmfs.net=none\tx=\"a b\" \"y=c d\" root=/dev/vda=1\n")
	assert.Equal(t, cmdline{
		"console": "ttyS0", "quiet": "", "vmfs.net": "none", "x": "a b", "y": "c d", "root": "/dev/vda=1",
	}, c)
	assert.True(t, c.has("quiet"))
	assert.False(t, c.has("loud"))
}

func TestNetwork(t *testing.T) {
	user := &netConfig{device: "eth0", addr: netip.MustParsePrefix("10.0.2.15/24"), gateway: netip.MustParseAddr("10.0.2.2"), dns: netip.MustParseAddr("10.0.2.3")}
	for _, tc := range []struct {
		line string
		want *netConfig
		err  string
	}{
		{"", nil, ""},
		{"vmfs.net=none", nil, ""},
		{"ip=off", nil, ""},
		{"vmfs.net=user", user, ""},
		{"vmfs.net=usr", nil, "vmfs.net=usr"},
		{"ip=192.168.1.5", &netConfig{device: "eth0", addr: netip.MustParsePrefix("192.168.1.5/24")}, ""},
		{"vmfs.net=user ip=10.1.2.3::10.1.0.1:255.255.0.0:web:eth1:off:1.1.1.1", &netConfig{
			device: "eth1", addr: netip.MustParsePrefix("10.1.2.3/16"), host: "web",
			gateway: netip.MustParseAddr("10.1.0.1"), dns: netip.MustParseAddr("1.1.1.1"),
		}, ""},
		{"ip=10.1.2.3::0.0.0.0:255.255.255.255", &netConfig{device: "eth0", addr: netip.MustParsePrefix("10.1.2.3/32")}, ""},
		{"ip=dhcp", nil, "bad client address"},
		{"ip=::::::dhcp", nil, "dhcp"},
		{"ip=10.1.2.3::nobody", nil, "bad gateway"},
		{"ip=10.1.2.3:::255.0.255.0", nil, "bad netmask"},
		{"ip=10.1.2.3:::::::nobody", nil, "bad DNS"},
	} {
		got, err := parseCmdline(tc.line).network()
		if tc.err != "" {
			require.ErrorContains(t, err, tc.err, tc.line)
			continue
		}
		require.NoError(t, err, tc.line)
		assert.Equal(t, tc.want, got, tc.line)
	}
}

func FuzzNetwork(f *testing.F) {
	f.Add("ip=10.1.2.3::10.1.0.1:255.255.0.0:web:eth1:off:1.1.1.1 vmfs.net=user")
	f.Fuzz(func(t *testing.T, line string) {
		c, err := parseCmdline(line).network()
		if err == nil && c != nil && (!c.addr.Addr().Is4() || c.device == "") {
			t.Errorf("%+v", c)
		}
	})
}

func TestSystemRAM(t *testing.T) {
	const iomem = `00000000-00000fff : Reserved
00001000-0009fbff : System RAM
000f0000-000fffff : System ROM
00100000-0ffdffff : System RAM
  0a000000-0ae01ef1 : Kernel code
0ffe0000-0fffffff : Reserved
100000000-17fffffff : virtio0
  100000000-107ffffff : System RAM (virtio_mem)
`
	assert.Equal(t, uint64(256*mib), systemRAM(strings.NewReader(iomem)))
	assert.Zero(t, systemRAM(strings.NewReader("00000000-00000000 : System RAM\n")), "as one without privilege sees it")
	assert.Zero(t, systemRAM(strings.NewReader("garbage\n-- : System RAM\n")))
}

func TestMemoryGauge(t *testing.T) {
	g := memoryGauge{boot: 256 * mib, base: 219*mib + 12345}
	assert.Equal(t, uint64(256), g.mib(219*mib+12345))
	assert.Equal(t, uint64(384), g.mib(347*mib+12345))
	assert.Equal(t, uint64(192), g.mib(155*mib+12345), "balloon")
	assert.Equal(t, uint64(256), g.mib(219*mib), "a few pages are no change")
}

func TestKernelNumbers(t *testing.T) {
	assert.True(t, hasFeature("0110", deflateOnOOM))
	assert.False(t, hasFeature("0101", deflateOnOOM))
	assert.False(t, hasFeature("01", deflateOnOOM))
	assert.False(t, hasFeature("", deflateOnOOM))
	const meminfo = "MemTotal:  219000 kB\nMemAvailable:   150000 kB\nbad\n"
	assert.Equal(t, uint64(150000), fieldOf(strings.NewReader(meminfo), "MemAvailable"))
	assert.Zero(t, fieldOf(strings.NewReader(meminfo), "Mem"))
	assert.Equal(t, uint64(7), fieldOf(strings.NewReader("balloon_inflate 7\nballoon_deflate 3\n"), "balloon_inflate"))
}

func TestHasKey(t *testing.T) {
	assert.True(t, hasKey("10000000000000 0", keyPower), "the ACPI power button")
	assert.False(t, hasKey("402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe", 500))
	assert.False(t, hasKey("0", keyPower))
	assert.False(t, hasKey("x y", keyPower))
	assert.False(t, hasKey("", keyPower))
}

func TestIsKeyPress(t *testing.T) {
	event := func(kind, code uint16, value uint32) []byte {
		b := make([]byte, inputEventSize)
		binary.LittleEndian.PutUint16(b[16:], kind)
		binary.LittleEndian.PutUint16(b[18:], code)
		binary.LittleEndian.PutUint32(b[20:], value)
		return b
	}
	assert.True(t, isKeyPress(event(evKey, keyPower, 1), binary.LittleEndian, keyPower))
	assert.False(t, isKeyPress(event(evKey, keyPower, 0), binary.LittleEndian, keyPower), "release")
	assert.False(t, isKeyPress(event(evKey, 30, 1), binary.LittleEndian, keyPower))
	assert.False(t, isKeyPress(event(0, keyPower, 1), binary.LittleEndian, keyPower))
}

func TestParseUevent(t *testing.T) {
	ev := parseUevent([]byte("add@/devices/system/memory/memory32\x00ACTION=add\x00SUBSYSTEM=memory\x00SEQNUM=7\x00"))
	assert.Equal(t, uevent{"ACTION": "add", "SUBSYSTEM": "memory", "SEQNUM": "7"}, ev)
	assert.Nil(t, parseUevent([]byte("libudev\x00\xfe\xed\xca\xfe")))
	assert.Nil(t, parseUevent(nil))
}

func TestUnescapeMount(t *testing.T) {
	assert.Equal(t, "/mnt/a b\\c", unescapeMount(`/mnt/a\040b\134c`))
}

func TestQueryFilter(t *testing.T) {
	const in = "guest# \x1b[6nls\x1b[6m\x1b[1;6n\x1b[6\x1b[6n\x1b"
	const want = "guest# ls\x1b[6m\x1b[1;6n\x1b[6"
	for size := 1; size <= len(in); size++ {
		var q queryFilter
		var out bytes.Buffer
		for rest := []byte(in); len(rest) > 0; {
			n := min(size, len(rest))
			out.Write(q.filter(rest[:n]))
			rest = rest[n:]
		}
		assert.Equal(t, want, out.String(), "chunks of %d", size)
		assert.Equal(t, "\x1b", string(q.held))
	}
}

// Whatever the chunks, nothing is lost but the query.
func FuzzQueryFilter(f *testing.F) {
	f.Add([]byte("a\x1b[6nb\x1b["), uint8(3))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		var q queryFilter
		var out []byte
		for rest := in; len(rest) > 0; {
			n := min(int(size)+1, len(rest))
			out = append(out, q.filter(rest[:n])...)
			rest = rest[n:]
		}
		out = append(out, q.held...)
		var whole queryFilter
		want := append(whole.filter(in), whole.held...)
		if !bytes.Equal(out, want) {
			t.Errorf("%q in chunks of %d: %q, at once: %q", in, int(size)+1, out, want)
		}
	})
}
