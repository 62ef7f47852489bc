package config

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/backends/hypervisor"
)

// numbered is n lines of a form that has a number in it.
func numbered(form string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, form, i)
	}
	return b.String()
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		text string
		want string // in the error; "" if there is none
	}{
		{numbered("disk=path:/%d\n", 64), ""},
		{numbered("disk=path:/%d\n", 65), "65 disks: a VM can have 64"},
		{numbered("net=tap:t%d\n", 65), "65 networks: a VM can have 64"},
		{numbered("pci=0000:01:%02x.0\n", 32) + numbered("pci=0000:02:%02x.0\n", 25), "57 PCI devices: a VM can have 56"},
		{"net=user" + numbered(",forward:tcp::%d:22", 65)[len(",forward:tcp::0:22"):], ""},
		{"net=user" + strings.Repeat(",forward:tcp::1:22", 64), ""},
		{"net=user" + strings.Repeat(",forward:tcp::1:22", 65), "65 forwards: a network can have 64"},
		{"net=user" + strings.Repeat(",forward:tcp::1:22", 128), "129 parts: a value can have 128"},
		{numbered("vz.key%d=1\n", 64), ""},
		{numbered("vz.key%d=1\n", 65), "65 settings of a back end: a VM can have 64"},
		{"vz." + strings.Repeat("k", 65) + "=1", "unknown key"},
		{strings.Repeat("#\n", 1024), ""},
		{strings.Repeat("#\n", 1025), "1025 lines: a configuration can have 1024"},
		{"kernel=/k\nargs='" + strings.Repeat("''", 64<<10) + "'", ""},
		{"kernel=/k\nargs=" + strings.Repeat("a", 64<<10+1), "65537 bytes: a value can have 65536"},
		{"#" + strings.Repeat("a", 132<<10), "135169 bytes: a line can have 135168"},
		{strings.Repeat("#"+strings.Repeat("a", 1022)+"\n", 256), ""},
		{strings.Repeat("#"+strings.Repeat("a", 1022)+"\n", 256) + "\n", "262145 bytes: a configuration can have 262144"},
	} {
		_, err := Parse(c.text)
		if c.want == "" {
			assert.NoError(t, err, "%.40s", c.text)
			continue
		}
		require.ErrorIs(t, err, hypervisor.ErrInvalid, "%.40s", c.text)
		assert.ErrorContains(t, err, c.want)
		assert.Less(t, len(err.Error()), 1500)
	}
	// What several texts add up to.
	c := Default()
	var err error
	for i := 0; err == nil && i < 10; i++ {
		c, err = c.Merge(fmt.Sprintf("vz.key%d=%s", i, strings.Repeat("v", 60<<10)))
	}
	require.ErrorIs(t, err, hypervisor.ErrInvalid)
	assert.ErrorContains(t, err, "a configuration can have 262144")
	assert.LessOrEqual(t, len(c.String()), MaxText)
}

// TestLargeIsRefusedFirst parses texts of what a message can hold: none of them is worth any
// time. That it took none is not measured; only that it comes to an end.
func TestLargeIsRefusedFirst(t *testing.T) {
	const size = 950_000
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, text := range []string{
			"disk=path:/" + strings.Repeat("a", size), "disk=" + strings.Repeat("path:/a,", size/8), "disk=path:/" + strings.Repeat(",,", size/2),
			"disk=" + strings.Repeat(",", size), "disk=path:/a" + strings.Repeat(" a", size/2), "disk='" + strings.Repeat("''", size/2) + "'",
			"disk=size:" + strings.Repeat("9", size), "net=user" + strings.Repeat(",forward:tcp::1:22", size/18), strings.Repeat("k", size) + "=1",
			numbered("disk=path:/%d\n", size/15), numbered("vz.k%d=1\n", size/12), strings.Repeat("\n", size), "pci=/sys/" + strings.Repeat("../", size/3),
		} {
			c, err := Default().Merge(text)
			assert.ErrorIs(t, err, hypervisor.ErrInvalid, "%.40s", text)
			assert.ErrorContains(t, err, "a configuration can have 262144")
			assert.Empty(t, Changed(Default(), c))
		}
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		require.Fail(t, "a text that is too large is looked at")
	}
}

// TestValuesArePrintable holds that nothing gets into a configuration that a terminal obeys.
func TestValuesArePrintable(t *testing.T) {
	for _, bad := range []string{"\x1b[2J", "\x00", "\x07", "\x7f", "\u009b31m", "\x9b", "\xff\xfe", "\u202egnp", "a\u2028b"} {
		for _, form := range []string{"kernel=/k%s", "kernel=/k\nargs=a %s b", "disk=path:/%s", "vz.key='%s'", "serial.log=/%s", "net=bridge:b%s", "%s=1", "vz.%s=1", "vcpus=%s"} {
			_, err := Parse(fmt.Sprintf(form, bad))
			assert.ErrorIs(t, err, hypervisor.ErrInvalid, "%q in %s", bad, form)
		}
		_, err := Parse("# " + bad)
		assert.NoError(t, err, "a comment is not kept")
	}
	c, err := Parse("kernel=/k\nargs='a\tb ä'\ndisk=path:/日本.img")
	require.NoError(t, err)
	assert.Contains(t, c.String(), "/日本.img")
}
