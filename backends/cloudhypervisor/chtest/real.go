package chtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// programVariable names the real one; else it is the one in $PATH.
const programVariable = "VMFS_CLOUD_HYPERVISOR"

// NeedReal is for tests of the real Cloud Hypervisor, which they are skipped without, or without a
// KVM that runs guests. One that $VMFS_CLOUD_HYPERVISOR names has to be there, and one that vmfs
// takes: version is how the back end asks it.
func NeedReal(t testing.TB, version func() (string, error)) {
	t.Helper()
	if _, err := version(); err != nil {
		if os.Getenv(programVariable) != "" {
			t.Fatal("$"+programVariable+" names no Cloud Hypervisor to test:", err)
		}
		t.Skip("not tried on the real Cloud Hypervisor:", err)
	}
	if !runsGuests() {
		t.Skip("not tried on the real Cloud Hypervisor: no KVM that runs guests here, `make host` has one")
	}
}

// CheckNeed holds a test of this test binary to what NeedReal says.
func CheckNeed(t *testing.T, test string) {
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	old := filepath.Join(dir, "old")
	require.NoError(t, os.WriteFile(old, []byte("#!/bin/sh\necho cloud-hypervisor v52.0\n"), 0o700))
	for _, c := range []struct {
		program, result string
		says            []string
	}{
		{filepath.Join(dir, "none"), "--- FAIL: " + test, []string{filepath.Join(dir, "none")}},
		{old, "--- FAIL: " + test, []string{"Cloud Hypervisor 52.0", "53.0 or later"}},
		{"", "--- SKIP: " + test, []string{"$PATH", "$" + programVariable}},
	} {
		cmd := exec.Command(self, "-test.v", "-test.run", "^"+test+"$/^$")
		cmd.Env = append(os.Environ(), programVariable+"="+c.program, "PATH="+dir)
		out, err := cmd.CombinedOutput()
		assert.Equal(t, strings.Contains(c.result, "FAIL"), err != nil, "%q: %v\n%s", c.program, err, out)
		for _, says := range append(c.says, c.result) {
			assert.Contains(t, string(out), says, "%q", c.program)
		}
	}
}

// runsGuests tells whether the CPU virtualizes and KVM can be used: within another VM /dev/kvm may
// be there and run no guest.
func runsGuests() bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	_ = f.Close() // nothing was written
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		key, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) != "flags" {
			continue
		}
		for _, f := range strings.Fields(flags) {
			if f == "svm" || f == "vmx" {
				return true
			}
		}
	}
	return false
}
