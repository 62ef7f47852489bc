package main

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vmfs/guest/internal/reaper"
	"vmfs/guest/testhost/internal/spec"
)

// environment is what programs have that the runner gives no other.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "SHELL=/bin/bash", "TERM=linux"}

// prepare makes the root a host's: what udev, a network set-up and adduser do on
// others. What fails is said, and a test that needs it fails.
func prepare(kids *reaper.Reaper) {
	check := func(what string, err error) {
		if err != nil {
			say("%s: %v", what, err)
		}
	}
	for _, l := range [][2]string{{"/proc/self/fd", "/dev/fd"}, {"fd/0", "/dev/stdin"}, {"fd/1", "/dev/stdout"}, {"fd/2", "/dev/stderr"}} {
		check("link "+l[1], os.Symlink(l[0], l[1]))
	}
	check("host name", unix.Sethostname([]byte("testhost")))
	check("modes of devices", deviceModes())
	check("users", addUsers())
	_ = os.Remove("/etc/resolv.conf") // it may be a link to where nothing is now
	check("name server", os.WriteFile("/etc/resolv.conf", []byte("nameserver 10.0.2.3\n"), 0o644))
	script := `ip link set lo up
ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up && ip route add default via 10.0.2.2`
	check("network", shell(kids, script))
}

// deviceModes are Debian's udev rules, as far as VMs need them.
func deviceModes() error {
	gid := -1
	if g, err := user.LookupGroup("kvm"); err == nil {
		gid, _ = strconv.Atoi(g.Gid) // the group file's own number
	}
	for path, mode := range map[string]os.FileMode{
		"/dev/kvm": 0o660, "/dev/vhost-vsock": 0o660, "/dev/vhost-net": 0o660, "/dev/net/tun": 0o666, "/dev/vfio/vfio": 0o666,
	} {
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
		if mode == 0o660 && gid >= 0 {
			if err := os.Chown(path, 0, gid); err != nil {
				return err
			}
		}
	}
	return nil
}

// addUsers adds the ordinary users to the machine's, unless it has one of the name.
func addUsers() error {
	for _, u := range spec.Users {
		if _, err := user.Lookup(u.Name); err == nil {
			return fmt.Errorf("the machine has a user %s already: it should be number %d", u.Name, u.ID)
		}
		home := "/home/" + u.Name
		for path, line := range map[string]string{
			"/etc/passwd": fmt.Sprintf("%s:x:%d:%d::%s:/bin/bash", u.Name, u.ID, u.ID, home),
			"/etc/group":  fmt.Sprintf("%s:x:%d:", u.Name, u.ID),
			"/etc/shadow": u.Name + ":*:19000:0:99999:7:::",
		} {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text := strings.TrimRight(string(b), "\n") + "\n" + line + "\n"
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(home, 0o755); err != nil {
			return err
		}
		if err := os.Chown(home, u.ID, u.ID); err != nil {
			return err
		}
	}
	return nil
}

// shell runs a line and reports what it said if it fails.
func shell(kids *reaper.Reaper, line string) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	out, err := os.CreateTemp("", "said-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	p, err := kids.Start("/bin/sh", []string{"sh", "-c", line}, environment, "/", []*os.File{null, out, out}, nil)
	if err != nil {
		return err
	}
	if status := reaper.Wait(p); status != 0 {
		said, _ := os.ReadFile(out.Name()) // what cannot be read is not said
		return fmt.Errorf("status %d: %s", status, said)
	}
	return nil
}
