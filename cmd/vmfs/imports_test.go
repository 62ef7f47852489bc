package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A layer is what the packages of one part of vmfs may import. Paths stand for
// themselves and for all below them.
type layer struct {
	part string
	// vmfs are the other packages of this module; the part's own are free.
	vmfs []string
	// foreign are packages of other modules, where only some may be used.
	foreign []string
	any     bool // of other modules, any may be used
	reason  string
}

// layers has the most special part first. The reason is for somebody whose
// change has just been refused.
var layers = []layer{
	{
		part: "vmfs/cmd",
		vmfs: []string{"vmfs"},
		any:  true,
		reason: "a command links everything, and so stands at the top: " +
			"what another package needs of it belongs into a package of its own",
	},
	{
		part: "vmfs/ninep/bench",
		vmfs: []string{"vmfs/ninep", "vmfs/ninep/dial", "vmfs/ninep/wire", "vmfs/client"},
		any:  true,
		reason: "the load generator speaks to servers by their sockets alone, so that ours has no advantage: " +
			"it links ninep only to serve p9's own trees with it, and client to make the VMs",
	},
	{
		part:    "vmfs/ninep/wire",
		foreign: []string{"github.com/hugelgupf/p9/p9", "github.com/hugelgupf/p9/linux"},
		reason: "wire is 9P's messages and nothing else: a client and a server are built on it alike, " +
			"so it knows neither, and no connection",
	},
	{
		part:    "vmfs/ninep/dial",
		vmfs:    []string{"vmfs/internal/unixsock"},
		foreign: []string{"github.com/mdlayher/vsock"},
		reason:  "dial is how a client and a server find each other: it knows neither, and no message",
	},
	{
		part:    "vmfs/ninep",
		vmfs:    []string{"vmfs/internal/printable", "vmfs/internal/unixsock", "vmfs/internal/wait", "vmfs/ninep/wire", "vmfs/ninep/dial"},
		foreign: []string{"github.com/hugelgupf/p9/p9", "github.com/hugelgupf/p9/linux"},
		reason: "ninep is a 9P server for any p9.Attacher: knowing nothing of VMs keeps it testable with " +
			"other trees and usable by other programs",
	},
	{
		part:    "vmfs/client",
		vmfs:    []string{"vmfs/internal/wait", "vmfs/ninep/wire", "vmfs/ninep/dial"},
		foreign: []string{"github.com/hugelgupf/p9/p9", "github.com/hugelgupf/p9/linux"},
		reason: "client is for any Go program that talks to a server: it knows the tree by its paths alone, " +
			"so that what it links is small and no back end or server comes with it",
	},
	{
		part: "vmfs/streams",
		vmfs: []string{"vmfs/internal", "vmfs/machine", "vmfs/backends/hypervisor", "vmfs/vsock"},
		reason: "streams is the life of what is read and written as it comes, whoever serves it: " +
			"it knows contexts, bytes and errors, and nothing of 9P's fids and qids",
	},
	{
		part: "vmfs/fs",
		vmfs: []string{"vmfs/internal", "vmfs/ctl", "vmfs/streams", "vmfs/machine", "vmfs/backends/hypervisor", "vmfs/vsock"},
		any:  true,
		reason: "fs shows what machine has, and runs commands by ctl: with a back end or the 9P server in it, " +
			"adding a back end or a dialect would mean changing the tree; of vsock it takes the errors, " +
			"to tell a guest that refuses from one that is not there, and what a port is",
	},
	{
		part: "vmfs/ctl",
		vmfs: []string{"vmfs/machine", "vmfs/backends/hypervisor"},
		reason: "ctl is a language over machine: a verb that reaches past it, to a back end or to the tree, " +
			"would work on one hypervisor or over one protocol only",
	},
	{
		part: "vmfs/machine",
		vmfs: []string{"vmfs/internal", "vmfs/backends/hypervisor", "vmfs/backends/process"},
		any:  true,
		reason: "machine knows back ends by the contract and what is registered: the program that links them " +
			"decides which there are",
	},
	{
		part: "vmfs/backends/hypervisor/hypervisortest",
		vmfs: []string{"vmfs/internal", "vmfs/backends/hypervisor", "vmfs/backends/process"},
		any:  true,
		reason: "the suite holds every back end to the contract, and so must know no back end " +
			"and nothing that is built on them",
	},
	{
		part: "vmfs/backends/hypervisor",
		reason: "the contract is what back ends and their users have in common: a dependency of it " +
			"is a dependency of them all",
	},
	{
		part:   "vmfs/backends/process",
		vmfs:   []string{"vmfs/internal"},
		any:    true,
		reason: "starting and watching a VMM's process is the same for all back ends, and for none in particular",
	},
	{
		part: "vmfs/backends/companion",
		vmfs: []string{"vmfs/internal", "vmfs/backends/process"},
		reason: "how a process beside a VMM is found, kept and ended is the same for all of them: " +
			"what each does is its own package's",
	},
	{
		part:    "vmfs/backends/serial",
		vmfs:    []string{"vmfs/internal", "vmfs/backends/hypervisor", "vmfs/backends/process", "vmfs/backends/rundir", "vmfs/backends/companion"},
		foreign: []string{"golang.org/x/sys"},
		reason: "a serial port behind a socket and words in a pipe are what any VMM has: with a back end in it, " +
			"the next one would have to do it again",
	},
	{
		part:    "vmfs/backends/hostnet",
		vmfs:    []string{"vmfs/internal", "vmfs/backends/hypervisor", "vmfs/backends/process"},
		foreign: []string{"golang.org/x/sys"},
		reason: "a tap or a passt is what any VMM inherits: with a back end in it, the next one would " +
			"have to do it again",
	},
	{
		part:    "vmfs/backends/disk",
		vmfs:    []string{"vmfs/internal", "vmfs/backends/hypervisor"},
		foreign: []string{"golang.org/x/sys"},
		reason:  "disk images are files: what a snapshot does with them is the same for all back ends",
	},
	{
		part:   "vmfs/backends/hostpci",
		vmfs:   []string{"vmfs/backends/hypervisor"},
		reason: "which devices a host can give away does not depend on the VMM that gets them",
	},
	{
		part:    "vmfs/backends/rundir",
		vmfs:    []string{"vmfs/internal", "vmfs/backends/stored", "vmfs/backends/process", "vmfs/backends/hypervisor"},
		foreign: []string{"github.com/google/renameio"},
		reason: "the directory of a VM's sockets is made ready and cleared for any VMM alike: what is in it " +
			"the back ends say",
	},
	{
		part: "vmfs/backends/handle",
		vmfs: []string{
			"vmfs/internal", "vmfs/backends/disk", "vmfs/backends/gate", "vmfs/backends/resize", "vmfs/backends/rundir", "vmfs/backends/snapshot",
			"vmfs/backends/process", "vmfs/backends/hypervisor",
		},
		reason: "what a handle knows and does beside its connection to the VMM is the same for all of them: with a back end " +
			"in it, the next one would have to do it again",
	},
	{
		part: "vmfs/backends/starter",
		vmfs: []string{
			"vmfs/internal", "vmfs/backends/handle", "vmfs/backends/rundir", "vmfs/backends/extras", "vmfs/backends/process",
			"vmfs/backends/hypervisor",
		},
		reason: "who starts VMs asks all back ends alike, and the answers that do not depend on the VMM stand here: " +
			"with a back end in it, the next one would have to give them again",
	},
	{
		part:   "vmfs/backends/extras",
		vmfs:   []string{"vmfs/backends/hypervisor"},
		reason: "extras reads any back end's settings by a table of that back end's",
	},
	{
		part: "vmfs/backends/stored",
		vmfs: []string{"vmfs/backends/hypervisor"},
		reason: "stored is how back ends write a configuration down: what is on disk is to be read for years, " +
			"whatever becomes of the back ends",
	},
	{
		part: "vmfs/backends/snapshot",
		vmfs: []string{"vmfs/internal", "vmfs/backends/disk", "vmfs/backends/gate", "vmfs/backends/stored", "vmfs/backends/hypervisor"},
		reason: "what surrounds the saving of a VM's state is the same for all back ends: with one in it, the next " +
			"would have to undo, recover and check again",
	},
	{
		part:   "vmfs/backends/gate",
		vmfs:   []string{"vmfs/backends/hypervisor"},
		reason: "what keeps a VM's commands out is the same for all back ends",
	},
	{
		part:   "vmfs/backends/resize",
		vmfs:   []string{"vmfs/backends/hypervisor"},
		reason: "which sizes of memory there are, and how one is waited for, is to mean the same on all back ends",
	},
	{
		part: "vmfs/backends/vz/fakeengine",
		vmfs: []string{
			"vmfs/backends/vz/shim", "vmfs/backends/vz/shimconfig", "vmfs/backends/sim", "vmfs/backends/hypervisor", "vmfs/guest/control", "vmfs/vsock",
		},
		reason: "the fake engine is package sim's guest behind the framework's documented states: it stands for the " +
			"framework alone, and so knows the shim's engine and nothing of the back end",
	},
	{
		part: "vmfs/backends/vz/shim",
		vmfs: []string{
			"vmfs/internal", "vmfs/backends/vz/shimapi", "vmfs/backends/vz/shimconfig", "vmfs/backends/serial", "vmfs/guest/control", "vmfs/vsock",
		},
		foreign: []string{"github.com/fsnotify/fsnotify"},
		reason: "the shim is a VM's own process: it knows its VM, and neither the back end that started it " +
			"nor what makes the VM, so that all of it runs on any system",
	},
	{
		part: "vmfs/backends/vz/shimapi",
		vmfs: []string{"vmfs/internal", "vmfs/backends/vz/shimconfig"},
		reason: "the control protocol is spoken by shims and servers of several releases: it knows messages " +
			"and a connection, and nothing of who uses them",
	},
	{
		part:   "vmfs/backends/vz/shimconfig",
		reason: "what server and shim share is read by shims of several releases: it is types and their checks, and nothing else",
	},
	{
		part:    "vmfs/backends/vz/framework",
		vmfs:    []string{"vmfs/backends/vz/shim", "vmfs/backends/vz/shimconfig"},
		foreign: []string{"github.com/Code-Hex/vz"},
		reason: "what touches Apple's framework runs on a Mac alone and is tested nowhere else: " +
			"whatever can be elsewhere is to be in package shim",
	},
	{
		part: "vmfs/backends/vz",
		vmfs: []string{
			"vmfs/internal", "vmfs/backends/disk", "vmfs/backends/stored", "vmfs/backends/snapshot", "vmfs/backends/rundir", "vmfs/backends/extras",
			"vmfs/backends/handle", "vmfs/backends/starter", "vmfs/backends/resize", "vmfs/backends/hypervisor", "vmfs/backends/process", "vmfs/backends/serial",
			"vmfs/backends/vz/shim", "vmfs/backends/vz/shimapi", "vmfs/backends/vz/shimconfig", "vmfs/vsock", "vmfs/guest/control",
		},
		foreign: []string{"github.com/google/renameio"},
		reason: "vz is a back end like any other, whose VMM is vmfs's own: it talks to that over a socket, and has " +
			"neither the framework nor what stands for it",
	},
	{
		part: "vmfs/backends",
		vmfs: []string{
			"vmfs/internal", "vmfs/backends/disk", "vmfs/backends/stored", "vmfs/backends/snapshot", "vmfs/backends/rundir", "vmfs/backends/extras",
			"vmfs/backends/handle", "vmfs/backends/starter",
			"vmfs/backends/gate", "vmfs/backends/resize", "vmfs/backends/hypervisor", "vmfs/backends/process", "vmfs/backends/hostnet",
			"vmfs/backends/hostpci", "vmfs/backends/companion", "vmfs/backends/serial", "vmfs/vsock", "vmfs/guest/control",
		},
		any: true,
		reason: "a back end is one hypervisor behind the contract: it knows neither another back end " +
			"nor who uses it, so that each can be added, replaced or left out alone",
	},
	{
		part:    "vmfs/internal",
		foreign: []string{"golang.org/x/sys", "github.com/google/renameio"},
		reason: "below internal are small packages of one idea each (locks, waiting, queues, printable text, Unix sockets, files) " +
			"that every layer but the contract may use: they know nothing of VMs, guests or 9P",
	},
	{
		part:   "vmfs/vsock",
		vmfs:   []string{"vmfs/internal"},
		any:    true,
		reason: "vsock carries bytes into and out of guests, of which there are several kinds: it is below all that knows VMs",
	},
	{
		part: "vmfs/guest/control",
		reason: "the control port's protocol is spoken by back ends on one side and the agent on the other: " +
			"it knows neither, and its client works over any stream",
	},
	{
		part: "vmfs/guest",
		vmfs: []string{"vmfs/internal", "vmfs/vsock", "vmfs/guest/control"},
		any:  true,
		reason: "the agent runs inside the guest, where there is no server, no back end and little memory: " +
			"what it links goes into every image",
	},
}

// testOnly are packages that exist for tests and must not be linked into the
// program.
var testOnly = []string{
	"vmfs/backends/hypervisor/hypervisortest",
	"vmfs/guest/guesttest",
	"vmfs/backends/vz/fakeengine",
	"testing",
	"github.com/stretchr/testify",
}

// below reports whether the package path is one of parts or below one.
func below(path string, parts []string) bool {
	return slices.ContainsFunc(parts, func(p string) bool {
		return path == p || strings.HasPrefix(path, p+"/")
	})
}

// testHelper reports whether a package exists to be imported by tests alone.
func testHelper(path string) bool {
	return strings.HasSuffix(path[strings.LastIndexByte(path, '/')+1:], "test")
}

// check returns what is wrong with the package path importing imp, or "".
func check(path, imp string) string {
	i := slices.IndexFunc(layers, func(l layer) bool { return below(path, []string{l.part}) })
	if i < 0 {
		return fmt.Sprintf("%s is in no layer: add it to the table in imports_test.go, with a reason", path)
	}
	l := layers[i]
	first, _, _ := strings.Cut(imp, "/")
	refuse := func() string { return fmt.Sprintf("%s must not import %s: %s", path, imp, l.reason) }
	switch {
	case first == "vmfs" && testHelper(imp) && !testHelper(path):
		return fmt.Sprintf("%s must not import %s: that is for tests, and would be linked into the program", path, imp)
	case first == "vmfs" && below(imp, []string{"vmfs/cmd"}):
		return fmt.Sprintf("%s must not import %s: %s", path, imp, layers[0].reason)
	case first == "vmfs":
		// A part that is special within a larger one is not that one's own.
		own := below(imp, []string{l.part}) && layers[slices.IndexFunc(layers, func(l layer) bool {
			return below(imp, []string{l.part})
		})].part == l.part
		if !own && !below(imp, l.vmfs) || own && l.part == "vmfs/backends" && backend(imp) != backend(path) {
			return refuse()
		}
	case strings.Contains(first, "."):
		if !l.any && !below(imp, l.foreign) {
			return refuse()
		}
	}
	return ""
}

// backend returns the name of the back end that the package is part of.
func backend(path string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(path, "vmfs/backends/"), "/")
	return name
}

// goList runs the go tool on this module for one system, as it is built with or without cgo.
func goList(t *testing.T, goos, goarch string, cgo bool, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = "../.."
	cmd.Env = append(cmd.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED="+map[bool]string{true: "1", false: "0"}[cgo])
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "go list %s: %s", strings.Join(args, " "), stderr.String())
	return out
}

// systems are those whose files are looked at. A Mac's own build has cgo.
var systems = []struct {
	goos, goarch string
	cgo          bool
}{{"linux", "amd64", false}, {"linux", "arm64", false}, {"darwin", "arm64", true}, {"darwin", "amd64", true}}

// TestImportDirections holds every package to its layer, on every system.
func TestImportDirections(t *testing.T) {
	for _, sys := range systems {
		t.Run(sys.goos+"/"+sys.goarch, func(t *testing.T) {
			seen := 0
			dec := json.NewDecoder(strings.NewReader(string(goList(t, sys.goos, sys.goarch, sys.cgo, "-e", "-json=ImportPath,Imports", "./..."))))
			for {
				var p struct {
					ImportPath string
					Imports    []string
				}
				err := dec.Decode(&p)
				if err == io.EOF {
					break
				}
				require.NoError(t, err)
				if below(p.ImportPath, []string{"vmfs/build"}) {
					continue // output, not source
				}
				seen++
				for _, imp := range p.Imports {
					if wrong := check(p.ImportPath, imp); wrong != "" {
						t.Error(wrong)
					}
				}
			}
			assert.Greater(t, seen, 5, "packages of this module")
		})
	}
}

// TestLinked holds the program to what it may contain.
func TestLinked(t *testing.T) {
	for _, sys := range systems {
		t.Run(sys.goos+"/"+sys.goarch, func(t *testing.T) {
			deps := strings.Fields(string(goList(t, sys.goos, sys.goarch, sys.cgo, "-deps", "./cmd/vmfs")))
			require.Contains(t, deps, "vmfs/ninep")
			for _, dep := range deps {
				assert.False(t, below(dep, testOnly), "cmd/vmfs links %s, which is for tests", dep)
			}
		})
	}
}

// TestCheck shows that the rules refuse what they should.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		path, imp string
		ok        bool
	}{
		{"vmfs/ctl", "vmfs/machine", true},
		{"vmfs/ctl", "vmfs/machine/rc", true},
		{"vmfs/machine", "vmfs/ctl", false},
		{"vmfs/machine", "vmfs/backends/qemu", false},
		{"vmfs/fs", "vmfs/ctl", true},
		{"vmfs/fs", "vmfs/ninep", false},
		{"vmfs/fs", "vmfs/streams", true},
		{"vmfs/streams", "vmfs/fs", false},
		{"vmfs/streams", "github.com/hugelgupf/p9/p9", false},
		{"vmfs/ninep", "github.com/hugelgupf/p9/p9", true},
		{"vmfs/ninep", "github.com/spf13/cobra", false},
		{"vmfs/ninep", "vmfs/ninep/wire", true},
		{"vmfs/ninep/wire", "vmfs/ninep", false},
		{"vmfs/ninep/wire", "vmfs/ninep/dial", false},
		{"vmfs/ninep/dial", "vmfs/ninep/wire", false},
		{"vmfs/ninep", "vmfs/machine", false},
		{"vmfs/ninep", "net", true},
		{"vmfs/backends/qemu", "vmfs/backends/qemu/qmp", true},
		{"vmfs/backends/qemu", "vmfs/backends/hypervisor", true},
		{"vmfs/backends/qemu", "vmfs/backends/process", true},
		{"vmfs/backends/qemu", "vmfs/backends/sim", false},
		{"vmfs/backends/qemu", "vmfs/backends/hostnet", true},
		{"vmfs/backends/qemu", "vmfs/backends/serial", true},
		{"vmfs/backends/serial", "vmfs/backends/qemu", false},
		{"vmfs/backends/hostnet", "vmfs/backends/qemu", false},
		{"vmfs/backends/qemu", "vmfs/backends/snapshot", true},
		{"vmfs/backends/snapshot", "vmfs/backends/qemu", false},
		{"vmfs/backends/qemu", "vmfs/backends/hypervisor/hypervisortest", false},
		{"vmfs/backends/qemu/qmp", "vmfs/backends/qemu", true},
		{"vmfs/backends/sim", "vmfs/vsock", true},
		{"vmfs/backends/sim", "vmfs/machine", false},
		{"vmfs/backends/vz", "vmfs/backends/vz/shim", true},
		{"vmfs/backends/vz", "vmfs/backends/sim", false},
		{"vmfs/backends/vz/shim", "vmfs/backends/vz", false},
		{"vmfs/backends/vz/shim", "vmfs/backends/hypervisor", false},
		{"vmfs/backends/vz/shimconfig", "vmfs/internal/wait", false},
		{"vmfs/backends/vz/fakeengine", "vmfs/backends/sim", true},
		{"vmfs/backends/vz/fakeengine", "vmfs/backends/vz", false},
		{"vmfs/backends/hypervisor", "golang.org/x/sys/unix", false},
		{"vmfs/backends/hypervisor", "vmfs/vsock", false},
		{"vmfs/vsock/vhostuser", "vmfs/backends/hypervisor", false},
		{"vmfs/guest/agent", "vmfs/vsock", true},
		{"vmfs/guest/agent", "vmfs/machine", false},
		{"vmfs/guest/agent", "vmfs/guest/control", true},
		{"vmfs/guest/control", "vmfs/vsock", false},
		{"vmfs/backends/qemu", "vmfs/guest/control", true},
		{"vmfs/backends/qemu", "vmfs/guest/agent", false},
		{"vmfs/cmd/vmfs", "vmfs/guest/guesttest", false},
		{"vmfs/guest/guesttest", "vmfs/guest", true},
		{"vmfs/fs", "vmfs/cmd/vmfs", false},
		{"vmfs/vsock", "vmfs/internal/unixsock", true},
		{"vmfs/backends/qemu", "vmfs/internal/queue", true},
		{"vmfs/internal/unixsock", "vmfs/internal/flock", true},
		{"vmfs/internal/flock", "vmfs/vsock", false},
		{"vmfs/internal/queue", "github.com/spf13/cobra", false},
		{"vmfs/backends/hypervisor", "vmfs/internal/wait", false},
		{"vmfs/nowhere", "fmt", false},
	} {
		assert.Equal(t, c.ok, check(c.path, c.imp) == "", "%s importing %s: %q", c.path, c.imp, check(c.path, c.imp))
	}
}
