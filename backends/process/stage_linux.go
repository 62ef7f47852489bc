package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A process is started by a stage: this program, executed again, which makes of
// itself what the new process is to be and then executes that. What it is told is in
// a memfd, and it has a pipe for the error that keeps it from it. Both are closed by
// executing, so that the end of the pipe says that all went well.
//
// The stage is the init function below, so that it works in every program that links
// this package, and before most of it has been set up.

// stageName is the first argument of a stage. The others are the descriptors of the
// specification and of the pipe.
const stageName = "vmfs-start"

func init() {
	if os.Args[0] == stageName && len(os.Args) == 3 {
		os.Exit(stage(os.Args[1], os.Args[2]))
	}
}

// specification is what a stage executes.
type specification struct {
	Path string   `json:"path"`
	Args []string `json:"args"`
	User *User    `json:"user,omitempty"`
}

// failure is what a stage says if it cannot.
type failure struct {
	Op    string        `json:"op"`
	Path  string        `json:"path,omitempty"`
	Errno syscall.Errno `json:"errno"`
}

func (f *failure) Error() string {
	if f.Path != "" {
		return (&os.PathError{Op: f.Op, Path: f.Path, Err: f.Errno}).Error()
	}
	return f.Op + ": " + f.Errno.Error()
}

func (f *failure) Unwrap() error { return f.Errno }

// self is this program, also where its file has been replaced.
func self() (string, error) { return "/proc/self/exe", nil }

// start starts cmd by a stage. The process runs its program when running returns nil.
func start(cmd *exec.Cmd, user *User) (running func(context.Context) error, err error) {
	b, err := json.Marshal(specification{Path: cmd.Path, Args: cmd.Args, User: user})
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate(stageName, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	spec := os.NewFile(uintptr(fd), "specification")
	defer spec.Close()
	if _, err := spec.WriteAt(b, 0); err != nil {
		return nil, err
	}
	says, tell, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer tell.Close()
	n := FirstFile + len(cmd.ExtraFiles)
	cmd.Path, _ = self()
	cmd.Args = []string{stageName, strconv.Itoa(n), strconv.Itoa(n + 1)}
	cmd.ExtraFiles = append(cmd.ExtraFiles[:len(cmd.ExtraFiles):len(cmd.ExtraFiles)], spec, tell)
	if err := cmd.Start(); err != nil {
		says.Close()
		return nil, err
	}
	return func(ctx context.Context) error {
		defer says.Close()
		stop := context.AfterFunc(ctx, func() { _ = says.SetReadDeadline(time.Unix(1, 0)) })
		defer stop()
		b, err := io.ReadAll(says)
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil || len(b) == 0 {
			return err // it runs, be it that ctx has ended just now
		}
		var f failure
		if err := json.Unmarshal(b, &f); err != nil {
			return fmt.Errorf("start a process: %q", b)
		}
		return &f
	}, nil
}

// stage is the process between the server's fork and the program's start. It returns
// if that failed.
func stage(spec, tell string) (status int) {
	// Much of what follows is of a thread, and the one that executes counts.
	runtime.LockOSThread()
	specFD, err1 := strconv.Atoi(spec)
	tellFD, err2 := strconv.Atoi(tell)
	if err1 != nil || err2 != nil {
		return 2
	}
	for _, fd := range []int{specFD, tellFD} {
		unix.CloseOnExec(fd)
	}
	err := func() error {
		var s specification
		if err := json.NewDecoder(io.NewSectionReader(os.NewFile(uintptr(specFD), "specification"), 0, 1<<24)).Decode(&s); err != nil {
			return err
		}
		return s.exec(specFD)
	}()
	var f *failure
	if !errors.As(err, &f) {
		f = &failure{Op: err.Error(), Errno: syscall.EINVAL}
	}
	b, _ := json.Marshal(f)                              // of strings and a number
	_, _ = os.NewFile(uintptr(tellFD), "error").Write(b) // else the exit status has to do
	return 1
}

// exec makes this thread what the new process is to be, and then all of the process.
// The descriptors below above are the new process's.
func (s *specification) exec(above int) error {
	// No others are there but of Go's run-time, which closes them, or by a mistake.
	// Kernels before 5.11 cannot do this.
	_ = unix.CloseRange(uint(above), 1<<31-1, unix.CLOSE_RANGE_CLOEXEC)
	if err := s.User.become(); err != nil {
		return err
	}
	for fd := FirstFile; fd < above; fd++ {
		if err := listenAgain(fd); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return &failure{Op: "set no_new_privs", Errno: errno(err)}
	}
	noneIgnored()
	var none unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil); err != nil {
		return &failure{Op: "unblock signals", Errno: errno(err)}
	}
	err := syscall.Exec(s.Path, s.Args, os.Environ())
	return &failure{Op: "execute", Path: s.Path, Errno: errno(err)}
}

// listenAgain makes this process the one that serves fd, if that is a Unix socket that listens:
// the kernel tells those who connect who has last called listen.
func listenAgain(fd int) error {
	is := func(option, value int) bool {
		v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
		return err == nil && v == value
	}
	if !is(unix.SO_DOMAIN, unix.AF_UNIX) || !is(unix.SO_ACCEPTCONN, 1) {
		return nil
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		return &failure{Op: "listen", Errno: errno(err)}
	}
	return nil
}

// noneIgnored gives every signal that is ignored its default, which a program that is
// executed would go on to ignore. Package signal does not know those that C libraries keep
// for themselves (32 and 33), which whoever calls posix_spawn, as make does, hands down.
func noneIgnored() {
	const ignored, setSize = 1, 8
	for sig := uintptr(1); sig < 65; sig++ {
		var is, byDefault [4]uint64 // as large as the kernel's sigaction; the handler comes first
		_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&is)), setSize, 0, 0)
		if e == 0 && *(*uintptr)(unsafe.Pointer(&is)) == ignored {
			unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&byDefault)), 0, setSize, 0, 0)
		}
	}
}

// become changes the ids of this thread: package syscall changes those of all threads,
// which takes time.
func (u *User) become() error {
	if u == nil {
		return nil
	}
	_, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(u.Groups)), uintptr(unsafe.Pointer(unsafe.SliceData(u.Groups))), 0)
	if e != 0 {
		return &failure{Op: "set groups", Errno: e}
	}
	gid, uid := uintptr(u.GID), uintptr(u.UID)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
		return &failure{Op: "set group", Errno: e}
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
		return &failure{Op: "set user", Errno: e}
	}
	return nil
}

func errno(err error) syscall.Errno {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return syscall.EINVAL
}
