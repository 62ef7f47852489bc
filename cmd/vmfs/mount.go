package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"vmfs/ninep/dial"
)

// mountMsize is the message size that the kernel proposes: its own default over
// TCP in new kernels, more than that of old ones.
const mountMsize = 128 << 10

func newMount() *cobra.Command {
	var (
		print  bool
		access string
		uname  string
	)
	cmd := &cobra.Command{
		Use:   "mount [--print] DIR",
		Short: "Mount a server with Linux's own v9fs",
		Long: `Mount the server on the directory DIR with Linux's own 9P file system, by running
mount(8). Only root may do that; --print only shows the line. umount DIR undoes it.

Files are not cached (cache=none): what is read is what the server says now, and
each write is a command with its own result. With access=user the server learns
which user each operation is for; access=any makes them all the mounter's.`,
		Example: `  sudo vmfs mount /n/vm
  vmfs mount --print /n/vm
  sudo vmfs mount --addr 'tcp!10.0.0.7!564' /n/vm
  sudo umount /n/vm`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			addr := serverAddr(cmd)
			if !slices.Contains([]string{"user", "any", "client"}, access) {
				if _, err := strconv.ParseUint(access, 10, 32); err != nil {
					return usagef("mount: no access mode %q: it is user, any, client or a user's number", access)
				}
			}
			if uname == "" {
				uname = userName()
			}
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return fmt.Errorf("mount %s: %w", args[0], err)
			}
			line, err := mountLine(cmd.Context(), addr, dir, access, uname)
			if err != nil {
				return err
			}
			if print {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), shellJoin(line))
				return err
			}
			if err := mountable(dir, line); err != nil {
				return fmt.Errorf("mount %s: %w", dir, err)
			}
			c, err := connect(cmd) // its error says more than the kernel's
			if err != nil {
				return fmt.Errorf("mount %s: %w", dir, err)
			}
			c.Close()
			mount := exec.CommandContext(cmd.Context(), line[0], line[1:]...)
			out, err := mount.CombinedOutput()
			if err != nil {
				return fmt.Errorf("mount %s: %s: %w: %s%s", dir, shellJoin(line), err, strings.TrimSpace(string(out)), no9p())
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&print, "print", false, "print the mount(8) line and do nothing")
	cmd.Flags().StringVar(&access, "access", "user", "who the operations are for: user, any, client or a user's `number`")
	cmd.Flags().StringVar(&uname, "uname", "", "user `name` that the mount attaches with (default the caller's)")
	addrFlag(cmd)
	return cmd
}

// mountLine returns the command that mounts the server at addr on dir.
func mountLine(ctx context.Context, addr, dir, access, uname string) ([]string, error) {
	a, err := dial.Parse(addr)
	if err != nil {
		return nil, usagef("mount: %w", err)
	}
	var source string
	opts := []string{"trans=" + a.Net}
	switch a.Net {
	case "unix":
		if source, err = filepath.Abs(a.Host); err != nil {
			return nil, fmt.Errorf("mount: %w", err)
		}
	case "tcp":
		ip, port, err := lookup4(ctx, a)
		if err != nil {
			return nil, fmt.Errorf("mount: %s: %w", a, err)
		}
		source = ip
		opts = append(opts, "port="+strconv.Itoa(port))
	default:
		return nil, usagef("mount: Linux's v9fs has no %s transport: let the server listen on unix! or tcp!", a.Net)
	}
	if strings.ContainsAny(uname, ", \t\n") {
		return nil, usagef("mount: a mount option cannot carry the user name %q", uname)
	}
	opts = append(opts, "version=9p2000.L", "access="+access, "cache=none",
		"msize="+strconv.Itoa(mountMsize), "uname="+uname)
	return []string{"mount", "-t", "9p", "-o", strings.Join(opts, ","), source, dir}, nil
}

// lookup4 returns a's IPv4 address and its port in numbers, all that v9fs takes.
func lookup4(ctx context.Context, a dial.Addr) (string, int, error) {
	host := a.Host
	if host == "*" {
		host = "localhost"
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", a.Port)
	if err != nil {
		return "", 0, err
	}
	ips, err := net.DefaultResolver.LookupIP(ctx, "ip4", host)
	if err != nil {
		return "", 0, fmt.Errorf("v9fs needs an IPv4 address: %w", err)
	}
	return ips[0].String(), port, nil
}

// mountable returns why line, a mount on dir, cannot work.
func mountable(dir string, line []string) error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("v9fs is Linux's, and this is %s: use a 9P client, or vmfs ls, cat and write", runtime.GOOS)
	}
	fi, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("there is no such directory: mkdir -p %s makes it", shellQuote(dir))
	case err != nil:
		return err
	case !fi.IsDir():
		return errors.New("that is not a directory")
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("only root may mount; run\n\tsudo %s", shellJoin(line))
	}
	return nil
}

// no9p hints at the module where the kernel has no 9p.
func no9p() string {
	data, err := os.ReadFile("/proc/filesystems")
	if err != nil || slices.Contains(strings.Fields(string(data)), "9p") {
		return ""
	}
	return " (this kernel has no 9p file system loaded: modprobe -a 9p 9pnet_fd; Debian's -cloud- kernels lack it)"
}

// userName returns the name of the user who runs this.
func userName() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return strconv.Itoa(os.Geteuid())
}

// shellJoin writes args as one line of sh.
func shellJoin(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = shellQuote(a)
	}
	return strings.Join(quoted, " ")
}

func shellQuote(s string) string {
	plain := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+=,:@%", r))
	}
	if s != "" && strings.IndexFunc(s, plain) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
