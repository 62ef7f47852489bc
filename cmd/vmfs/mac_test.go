package main

import (
	"context"
	"encoding/xml"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/guest/guesttest"
)

// TestMacChecklist runs the checklist of docs/mac-checklist.md where it can be: on a real
// guest under QEMU. So what fails on a Mac is not the script. It takes minutes, and so has
// a ring of its own (make test-mac).
func TestMacChecklist(t *testing.T) {
	if os.Getenv("VMFS_MAC_CHECKLIST") == "" {
		t.Skip("VMFS_MAC_CHECKLIST=1 runs it, as make test-mac does")
	}
	vmfs, err := exec.LookPath("vmfs")
	require.NoError(t, err)
	kernel, initrd := guesttest.Image(t)
	dir := t.TempDir()
	require.NoError(t, os.Symlink(kernel, filepath.Join(dir, "vmlinuz")))
	require.NoError(t, os.Symlink(initrd, filepath.Join(dir, "initrd")))
	ctx, cancel := context.WithTimeout(t.Context(), 15*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "../../mac/checklist.sh")
	report := filepath.Join(dir, "report.txt")
	cmd.Env = append(os.Environ(), "BACKEND=qemu", "VMFS="+vmfs, "GUEST="+dir, "REPORT="+report, "STREAMS=16")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.CombinedOutput()
	text, _ := os.ReadFile(report)
	require.NoError(t, err, "%s\n%s", out, text)
	assert.Contains(t, string(text), " 0 failed, ")
}

// TestMacChecklistPage holds the page to the script: each check, in the order in which
// they are made.
func TestMacChecklistPage(t *testing.T) {
	names := func(re, file string) (all []string) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(re).FindAllStringSubmatch(string(text), -1) {
			all = append(all, m[1])
		}
		return all
	}
	made := names(`(?m)^check (\w+) "`, "../../mac/checklist.sh")
	assert.Equal(t, made, names("(?m)^\\| `(\\w+)` \\|", "../../docs/mac-checklist.md"))
	assert.ElementsMatch(t, made, names(`(?m)^check_(\w+)\(\)`, "../../mac/checklist.sh"))
	assert.NoError(t, exec.Command("sh", "-n", "../../mac/checklist.sh").Run())
}

// TestMacProperties reads the property lists that a Mac's tools are given.
func TestMacProperties(t *testing.T) {
	files, err := filepath.Glob("../../mac/*")
	require.NoError(t, err)
	keys := map[string][]string{}
	for _, name := range files {
		if filepath.Ext(name) == ".sh" {
			continue
		}
		f, err := os.Open(name)
		require.NoError(t, err)
		defer f.Close()
		for dec, last := xml.NewDecoder(f), ""; ; {
			token, err := dec.Token()
			if err == io.EOF {
				break
			}
			require.NoError(t, err, name)
			switch token := token.(type) {
			case xml.StartElement:
				last = token.Name.Local
			case xml.CharData:
				if text := strings.TrimSpace(string(token)); last == "key" && text != "" {
					keys[filepath.Base(name)] = append(keys[filepath.Base(name)], text)
				}
			}
		}
	}
	assert.Equal(t, []string{"com.apple.security.virtualization"}, keys["vmfs.entitlements"])
	assert.Equal(t, []string{"com.apple.security.virtualization", "com.apple.vm.networking"}, keys["vmfs-bridged.entitlements"])
	for _, key := range []string{"Label", "ProgramArguments", "KeepAlive", "AbandonProcessGroup"} {
		assert.True(t, slices.Contains(keys["vmfs.plist"], key), key)
	}
}
