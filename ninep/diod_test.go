package ninep

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// needTool finds a program, or skips on a person's machine; a machine that
// tests for others must have it.
func needTool(t *testing.T, name, install string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed: %s", name, install)
	}
	t.Skipf("%s is not installed: %s", name, install)
	return ""
}

// TestDiodClients runs the clients of Debian's diod.
func TestDiodClients(t *testing.T) {
	const install = "apt-get install diod"
	fs := basicTree()
	fs.file("ctl/zero", strings.Repeat("\x00", 1<<20))
	fs.file("ctl/null", "")
	ts := serve(t, fs)
	sock := strings.TrimPrefix(ts.addr, "unix!")
	run := func(name string, args ...string) (string, error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, needTool(t, name, install), args...)
		cmd.WaitDelay = time.Second
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run("diodls", "-s", sock, "-a", "/", "-l")
	require.NoError(t, err, out)
	for _, name := range []string{"a", "b", "dir", "empty", "link"} {
		assert.Contains(t, out, name)
	}
	out, err = run("diodcat", "-s", sock, "-a", "/", "a", "dir/sub/deep")
	require.NoError(t, err, out)
	assert.Equal(t, "alpha\ndown here\n", out)
	out, err = run("diodcat", "-s", sock, "-a", "/", "nothing")
	require.Error(t, err)
	assert.Contains(t, out, "No such file or directory")

	// diodload works on the files of diod's own tree.
	out, err = run("diodload", "-s", sock, "-n", "4", "-r", "1")
	require.NoError(t, err, out)
	assert.Regexp(t, `[1-9][0-9]* ops/s`, out)
	assert.NotContains(t, out, "error")
	out, err = run("diodload", "-s", sock, "-n", "4", "-r", "1", "-g")
	require.NoError(t, err, out)
	assert.Regexp(t, `[1-9][0-9]* ops/s`, out)
}
