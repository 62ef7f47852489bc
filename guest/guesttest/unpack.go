package guesttest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"vmfs/guest"
	"vmfs/internal/flock"
)

// Fast is Build with the kernel unpacked, for tests to which it does not matter how
// that gets into memory. Emulated, it unpacks itself at a tenth of the speed, and after
// a reset, over pages that hold translated code, slower still. It takes some 60 MiB
// of the guest's memory. Where lz4, xz or zstd is not installed it is just Build.
func Fast(t testing.TB, o guest.Options) (kernel, initrd string) {
	t.Helper()
	kernel, initrd = Build(t, o)
	if runtime.GOARCH != "amd64" || os.Getenv(PrebuiltVar) != "" {
		return kernel, initrd
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	unpacked, err := unpackKernel(ctx, kernel)
	if errors.Is(err, exec.ErrNotFound) {
		t.Logf("the kernel unpacks itself: %v", err)
		return kernel, initrd
	}
	if err != nil {
		t.Fatalf("guesttest: unpack %s: %v", kernel, err)
	}
	return unpacked, initrd
}

// unpackers are the programs that unpack what a kernel is packed with, by how that
// begins.
var unpackers = []struct{ magic, program string }{
	{"\x02\x21\x4c\x18", "lz4"}, {"\xfd7zXZ", "xz"}, {"\x28\xb5\x2f\xfd", "zstd"},
}

// unpackKernel makes the ELF file vmlinux beside a bzImage, if it is not there. Linux's
// Documentation/arch/x86/boot.rst has the layout.
func unpackKernel(ctx context.Context, bzImage string) (string, error) {
	dir := filepath.Dir(bzImage)
	out := filepath.Join(dir, "vmlinux")
	lock, err := flock.MakeDir(ctx, dir)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	b, err := os.ReadFile(bzImage)
	if err != nil {
		return "", err
	}
	if len(b) < 0x250 || string(b[0x202:0x206]) != "HdrS" {
		return "", errors.New("not a bzImage")
	}
	sectors := int(b[0x1f1])
	if sectors == 0 {
		sectors = 4
	}
	from := (sectors+1)*512 + int(binary.LittleEndian.Uint32(b[0x248:]))
	to := from + int(binary.LittleEndian.Uint32(b[0x24c:])) - 4 // its unpacked size is behind it
	if from < 0 || to > len(b) || from > to {
		return "", errors.New("a bzImage that is cut off")
	}
	payload := b[from:to]
	for _, u := range unpackers {
		if !bytes.HasPrefix(payload, []byte(u.magic)) {
			continue
		}
		cmd := exec.CommandContext(ctx, u.program, "-dc")
		var vmlinux, said bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(payload), &vmlinux, &said
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", u.program, err, said.Bytes())
		}
		if !bytes.HasPrefix(vmlinux.Bytes(), []byte("\x7fELF")) {
			return "", fmt.Errorf("%s made no ELF file of it", u.program)
		}
		if err := os.WriteFile(out+".new", vmlinux.Bytes(), 0o644); err != nil {
			return "", err
		}
		return out, os.Rename(out+".new", out)
	}
	return "", fmt.Errorf("packed in a way that is not known: it begins with %q", payload[:min(8, len(payload))])
}
