package hostnettest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Passt returns nil where passt works, or says what the host lacks for it.
func Passt() error {
	if _, err := exec.LookPath("passt"); err != nil {
		return errors.New("passt is missing: apt-get install passt")
	}
	routes, err := os.ReadFile("/proc/net/route")
	if err != nil || !strings.Contains(string(routes), "\t00000000\t") {
		return errors.New("passt needs a default route, and this host has none: ip route add default …")
	}
	unshare := exec.Command("unshare", "--user", "true")
	if os.Geteuid() == 0 { // passt becomes nobody before
		unshare.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if out, err := unshare.CombinedOutput(); err != nil {
		return fmt.Errorf("passt needs user namespaces, and this host lets nobody make one "+
			"(sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns): %w: %s", err, out)
	}
	return nil
}

// FreePort is a port of 127.0.0.1 that nobody has.
func FreePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Passts counts the passts that forward a port of 127.0.0.1.
func Passts(t testing.TB, port string) (n int) {
	t.Helper()
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range cmdlines {
		b, _ := os.ReadFile(path) // it may have ended
		if bytes.Contains(b, []byte("\x00127.0.0.1/"+port+":")) {
			n++
		}
	}
	return n
}
