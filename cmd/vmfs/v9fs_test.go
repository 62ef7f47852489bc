package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/guest"
	"vmfs/guest/guesttest"
)

// v9fsStories are the files in testdata that TestV9FS runs, and how many lines "ok"
// one has at the least when it went to its end.
var v9fsStories = []struct {
	file string
	oks  int
}{{"v9fs.sh", 100}, {"v9fs_vsock.sh", 30}}

// TestV9FS mounts a server with the 9p client of real kernels. A guest runs the
// stories one after the other: they lead another guest, a VM of the server, through
// its life by echo, cat, ls, mkdir and rmdir, and reach its ports by redirection.
func TestV9FS(t *testing.T) {
	for _, series := range []string{"6.1", "6.12"} {
		t.Run(series, func(t *testing.T) {
			t.Parallel() // with the other tests that wait for a guest
			s := newServer(t)
			s.start("--listen", "tcp!127.0.0.1!0,user=root")
			vmKernel, vmInitrd := guesttest.Fast(t, guest.Options{})
			vars := fmt.Sprintf("PORT=%s\nKERNEL=%s\nINITRD=%s\n", s.tcp[strings.LastIndexByte(s.tcp, '!')+1:], vmKernel, vmInitrd)
			lib, err := os.ReadFile("testdata/v9fs_lib.sh")
			require.NoError(t, err)
			files := []guest.File{{Path: "/story/lib.sh", Content: []byte(vars + string(lib))}}
			all := "#!/bin/sh\n"
			for _, story := range v9fsStories {
				script, err := os.ReadFile("testdata/" + story.file)
				require.NoError(t, err)
				files = append(files, guest.File{Path: "/story/" + story.file, Content: script, Mode: 0o755})
				all += fmt.Sprintf("/story/%s; echo story ended $?\n", story.file)
			}
			kernel, initrd := guesttest.V9FS(t, series, append(files, guesttest.Script(all))...)
			vm := guesttest.Start(t, guesttest.Config{
				Kernel: kernel, Initrd: initrd, Append: "vmfs.net=user", Deadline: 5 * time.Minute,
				Args: []string{"-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"},
			})
			for _, story := range v9fsStories {
				m := vm.Expect(regexp.MustCompile(`(?s)^(.*?\n)story ended (\d+)\n`))
				for line := range strings.Lines(m[1]) {
					if strings.HasPrefix(line, "not ok") {
						t.Errorf("%s: %s", story.file, line)
					}
				}
				assert.Equal(t, "0", m[2], story.file)
				assert.Greater(t, strings.Count(m[1], "\nok "), story.oks, "%s went to its end", story.file)
			}
			if t.Failed() {
				t.Logf("the guest's console:\n%s", vm.Output())
			}
		})
	}
}
