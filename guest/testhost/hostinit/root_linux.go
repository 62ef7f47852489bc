package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"vmfs/guest/testhost/internal/spec"
)

type mount struct {
	kind, dir, data string
	flags           uintptr
}

// devices are mounted in the initramfs and again in the root.
var devices = []mount{
	{"proc", "/proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"sysfs", "/sys", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"devtmpfs", "/dev", "mode=0755", unix.MS_NOSUID},
}

// others are those that the root has besides.
var others = []mount{
	{"devpts", "/dev/pts", "gid=5,mode=0620,ptmxmode=0666", unix.MS_NOSUID | unix.MS_NOEXEC},
	{"tmpfs", "/dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	{"mqueue", "/dev/mqueue", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"cgroup2", "/sys/fs/cgroup", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"securityfs", "/sys/kernel/security", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"tmpfs", "/run", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV},
	{"tmpfs", "/tmp", "mode=1777,size=75%", unix.MS_NOSUID | unix.MS_NODEV},
	{"9p", spec.OutDir, "trans=virtio,version=9p2000.L,msize=524288,access=any", 0},
}

// mountAll mounts file systems below a root.
func mountAll(root string, list []mount) error {
	for _, m := range list {
		source := m.kind
		if m.kind == "9p" {
			source = spec.OutTag
		}
		dir := root + m.dir
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
		// EBUSY: the kernel has mounted devtmpfs already.
		if err := unix.Mount(source, dir, m.kind, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	return nil
}

// enterRoot makes the machine's files, under an overlay in memory, the root.
func enterRoot() error {
	const lower, memory, root = "/lower", "/memory", "/host"
	for _, dir := range []string{lower, memory, root} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	// The machine's files are taken not to change while the host is there.
	if err := unix.Mount(spec.RootTag, lower, "9p", unix.MS_RDONLY,
		"trans=virtio,version=9p2000.L,msize=524288,cache=loose,access=any"); err != nil {
		return fmt.Errorf("mount the machine's root: %w", err)
	}
	if err := unix.Mount("tmpfs", memory, "tmpfs", 0, "mode=0755,size=75%"); err != nil {
		return fmt.Errorf("mount the overlay's memory: %w", err)
	}
	for _, dir := range []string{"/upper", "/work"} {
		if err := os.Mkdir(memory+dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("overlay", root, "overlay", 0, "lowerdir="+lower+",upperdir="+memory+"/upper,workdir="+memory+"/work"); err != nil {
		return fmt.Errorf("mount the overlay: %w", err)
	}
	config, err := readConfig(lower)
	if err != nil {
		return err
	}
	kept, err := keep(root, config.Keep)
	if err != nil {
		return err
	}
	if err := errors.Join(mountAll(root, devices), mountAll(root, others), kept.show(root)); err != nil {
		return err
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") // as systemd has it
}

func readConfig(lower string) (config spec.Config, err error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return config, err
	}
	for word := range strings.FieldsSeq(string(line)) {
		if path, ok := strings.CutPrefix(word, spec.Parameter); ok {
			b, err := os.ReadFile(filepath.Join(lower, path))
			if err != nil {
				return config, err
			}
			return config, json.Unmarshal(b, &config)
		}
	}
	return config, errors.New("the kernel's command line has no " + spec.Parameter)
}

// trees are files and directories, kept open over the mount of something else on
// a directory above them.
type trees map[string]int

func keep(root string, paths []string) (trees, error) {
	t := trees{}
	for _, path := range paths {
		fd, err := unix.OpenTree(unix.AT_FDCWD, root+path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return nil, fmt.Errorf("keep %s: %w", path, err)
		}
		t[path] = fd
	}
	return t, nil
}

// show puts them where they were.
func (t trees) show(root string) error {
	for path, fd := range t {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("keep %s: %w", path, err)
		}
		dir := root + path
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			dir = filepath.Dir(dir)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("keep %s: %w", path, err)
		}
		if dir != root+path {
			if err := os.WriteFile(root+path, nil, 0o600); err != nil {
				return fmt.Errorf("keep %s: %w", path, err)
			}
		}
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, root+path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("keep %s: %w", path, err)
		}
		unix.Close(fd)
	}
	return nil
}
