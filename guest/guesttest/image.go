package guesttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"vmfs/guest"
	"vmfs/guest/imagecache"
)

// PrebuiltVar names a directory with the default guest, for where building one takes
// long: in the emulated host of package testhost.
const PrebuiltVar = "VMFS_GUEST_IMAGE"

// buildTimeout bounds one image with its downloads.
const buildTimeout = 10 * time.Minute

// Image returns the default guest: Debian's current cloud kernel, the agent and
// busybox.
func Image(t testing.TB) (kernel, initrd string) {
	t.Helper()
	return Build(t, guest.Options{})
}

// V9FS returns a guest with Debian's full kernel of a series ("6.1" or "6.12"),
// its 9p client over TCP loaded, and the given files in it. Boot it with
// vmfs.net=user and a user network, and the host's 127.0.0.1 is 10.0.2.2.
func V9FS(t testing.TB, series string, files ...guest.File) (kernel, initrd string) {
	t.Helper()
	return Build(t, guest.Options{
		Package:      Kernel(t, series, ""),
		ExtraModules: []string{"9pnet_fd", "9p"},
		Files:        files,
	})
}

// Script returns the file that the agent runs after the boot instead of the
// console's shell. Its output goes to the console, followed by
// "vmfs guest: script exited N", and the guest powers off.
func Script(content string) guest.File {
	return guest.File{Path: guest.ScriptPath, Content: []byte(content), Mode: 0o755}
}

// Kernel returns Debian's current kernel package of a series, such as "6.12".
// The flavour is "" for the full kernel or "cloud".
func Kernel(t testing.TB, series, flavour string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tail := runtime.GOARCH
	if flavour != "" {
		tail = flavour + "-" + tail
	}
	// The series of a Debian release has no meta package of its own name.
	var tried []string
	for _, meta := range []string{"linux-image-" + series + "-" + tail, "linux-image-" + tail} {
		name, err := (&guest.Options{Package: meta}).ResolveKernel(ctx)
		if errors.Is(err, exec.ErrNotFound) {
			Missing(t, err.Error())
		}
		if err == nil && strings.HasPrefix(name, "linux-image-"+series+".") {
			return name
		}
		if err == nil {
			err = fmt.Errorf("%s is now %s", meta, name)
		}
		tried = append(tried, err.Error())
	}
	Missing(t, fmt.Sprintf("no Debian kernel %s here: %s", series, strings.Join(tried, "; ")))
	return ""
}

// Build returns the image for the options, from the cache if it is there. Dir,
// Agent and Cache are chosen here.
func Build(t testing.TB, o guest.Options) (kernel, initrd string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	if dir := os.Getenv(PrebuiltVar); dir != "" && reflect.ValueOf(o).IsZero() {
		return filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd")
	}
	img, err := imagecache.Build(ctx, imagecache.Agent, o, t.Logf)
	if errors.Is(err, exec.ErrNotFound) {
		Missing(t, err.Error())
	}
	if err != nil {
		t.Fatalf("guesttest: %v", err)
	}
	return img.Kernel, img.Initrd
}

// Missing ends a test for something that is not there: it skips, but with
// CI=true, where everything has to be there, it fails.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}
