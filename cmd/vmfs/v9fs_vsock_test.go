package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vmfs/guest/guesttest"
)

// TestVsockV9FS reaches a guest's ports from a shell on a mounted tree, with the 9p
// client of real kernels: testdata/v9fs_vsock.sh runs in another guest.
func TestVsockV9FS(t *testing.T) {
	script, err := os.ReadFile("testdata/v9fs_vsock.sh")
	require.NoError(t, err)
	for _, series := range []string{"6.1", "6.12"} {
		t.Run(series, func(t *testing.T) {
			s := newServer(t)
			s.start("--listen", "tcp!127.0.0.1!0,user=root")
			port := s.tcp[strings.LastIndexByte(s.tcp, '!')+1:]
			vmKernel, vmInitrd := guesttest.Image(t)
			vars := fmt.Sprintf("PORT=%s\nKERNEL=%s\nINITRD=%s\n", port, vmKernel, vmInitrd)
			kernel, initrd := guesttest.V9FS(t, series, guesttest.Script("#!/bin/sh\n"+vars+string(script)))
			vm := guesttest.Start(t, guesttest.Config{
				Kernel: kernel, Initrd: initrd, Append: "vmfs.net=user",
				Args: []string{"-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"},
			})
			status := vm.Expect(regexp.MustCompile(`vmfs guest: script exited (\d+)`))
			out := vm.Output()
			for line := range strings.Lines(out) {
				if strings.HasPrefix(line, "not ok") {
					t.Error(line)
				}
			}
			assert.Equal(t, "0", status[1])
			assert.Greater(t, strings.Count(out, "\nok "), 30, "the script went to its end")
			if t.Failed() {
				t.Logf("the guest's console:\n%s", out)
			}
		})
	}
}
