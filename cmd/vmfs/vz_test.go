package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vmfs/backends/vz"
	"vmfs/backends/vz/fakeengine"
	"vmfs/backends/vz/shim"
	"vmfs/backends/vz/shimapi"
)

// vzInTests is the environment variable of a vmfs that has the back end vz, over the fake of
// the framework.
const vzInTests = "VMFS_TEST_VZ"

func init() {
	vzHere = vzHere || os.Getenv(vzInTests) != ""
	vzEngine = func() shim.Engine {
		return fakeengine.New(fakeengine.Config{Lag: time.Millisecond, BootTime: 50 * time.Millisecond, PowerOffTime: 100 * time.Millisecond})
	}
}

// TestScriptsOnVZ tells the stories that are the same on every back end over vz-shims with
// the fake engine, and those in testdata/vz.
func TestScriptsOnVZ(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"life", "events", "wait", "rdwr"} {
		b, err := os.ReadFile(filepath.Join("testdata", "script", name+".txtar"))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".txtar"), []byte(onVZ(string(b))), 0o600))
	}
	own, err := filepath.Glob("testdata/vz/*.txtar")
	require.NoError(t, err)
	for _, path := range own {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), b, 0o600))
	}
	runScripts(t, dir, vzInTests+"=1")
}

// onVZ makes a story on sim one on vz, whose VMs want a kernel and have no NMI button.
func onVZ(story string) string {
	settings := []string{"hypervisor=vz", "kernel=/dev/null", "vsock.cid=auto"}
	var out strings.Builder
	skip := false // what looks at a pid
	for line := range strings.Lines(story) {
		switch {
		case strings.Contains(line, "NMI") || strings.Contains(line, "/ctl nmi"):
			continue
		case strings.HasSuffix(line, "/pid\n"):
			// A shim ends a moment after its guest: it is sent away by who has learned of that.
			out.WriteString("exec vmfs ls\n")
			skip = true
			continue
		case skip && line == "! stdout .\n":
			skip = false
			continue
		case strings.HasPrefix(line, "exec vmfs write"):
			lines := ""
			for i, set := range settings { // one KEY=VALUE a line
				one := strings.Replace(line, "hypervisor=sim", set, 1)
				if i > 0 && one != line {
					one = strings.Replace(one, "write ", "write -a ", 1)
				}
				if i == 0 || one != line {
					lines += one
				}
			}
			line = lines
		case line == "hypervisor=sim\n":
			line = strings.Join(settings, "\n") + "\n"
		case strings.HasPrefix(line, "set hypervisor=sim"):
			line = strings.Replace(line, "hypervisor=sim", strings.Join(settings, " "), 1)
		default:
			line = strings.ReplaceAll(line, "hypervisor=sim", "hypervisor=vz")
		}
		out.WriteString(line)
	}
	return out.String()
}

// endShims ends the shims of the VMs below a directory, which outlive their servers.
func endShims(dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, _ error) error { // what is not there needs no end
		if filepath.Base(path) == vz.SocketName {
			if c, err := shimapi.Dial(ctx, path); err == nil {
				_ = c.Call(ctx, shimapi.MethodKill, nil, nil) // it does not answer
				_ = c.Close()                                 // nothing else was asked
			}
		}
		return nil
	})
}
