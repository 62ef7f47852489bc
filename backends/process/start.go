package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"vmfs/internal/regular"
)

// FirstFile is the descriptor that the first of Command.Files has in the process.
const FirstFile = 3

// A Command is a process to start, that of a VMM or one beside it. It gets a session
// of its own and nothing of the server's but what is here: so it outlives the server,
// takes no signals meant for it, and ignores and blocks none that the server does. On
// Linux it cannot gain privileges by what it executes.
type Command struct {
	// Path is the program. Where it is "" it is this very one, which then is what
	// was registered for Name (see Main).
	Path string
	// Name is the first of the process's arguments; "" is Path.
	Name string
	// Args are the arguments after the first.
	Args []string
	// Files are inherited, from FirstFile on. A Unix socket among them that listens does so
	// in the process's name from then on: it is whom Peer finds there.
	Files []*os.File
	// Log is the file that its output is appended to.
	Log string
	// Output takes its output instead, where it is set, for a process that appends it to
	// Log (see Child.Writer).
	Output *os.File
	// Stdout is its standard output, where that does not go to Log.
	Stdout *os.File
	// User is who the process is to be; nil is who the server is.
	User *User
}

// A User is the ids of a process.
type User struct {
	UID, GID uint32
	Groups   []uint32
}

// A Child is a process that this server started. A goroutine of its own waits for
// its end for as long as the server lives, since somebody has to.
type Child struct {
	Process
	// Beside are processes that are of use to this one alone: they end when it does,
	// or are ended with it.
	Beside []*Child
	// Writer is the process that writes the log, where Command.Output leads to one. It
	// ends by itself after this one, when all is in the log.
	Writer Process

	log  string
	from int64 // where in the log the output of this start begins

	ended chan struct{} // closed when the process was waited for; err is set then
	err   error         // how it ended
}

// Start starts a process and returns when its program runs.
func Start(ctx context.Context, c Command) (*Child, error) {
	log, err := regular.OpenFile(c.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	defer log.Close()
	fi, err := log.Stat()
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	if c.Path == "" {
		if c.Path, err = self(); err != nil {
			return nil, err
		}
	}
	if c.Name == "" {
		c.Name = c.Path
	}
	cmd := &exec.Cmd{
		Path: c.Path, Args: append([]string{c.Name}, c.Args...), Env: Environment(), Dir: "/",
		Stdout: log, Stderr: log, // files: no goroutine copies them
		ExtraFiles:  c.Files,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if c.Output != nil {
		cmd.Stdout, cmd.Stderr = c.Output, c.Output
	}
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	running, err := start(cmd, c.User)
	if err != nil {
		return nil, err
	}
	child := &Child{log: c.Log, from: fi.Size(), ended: make(chan struct{})}
	child.Process, err = Find(cmd.Process.Pid)
	if errors.Is(err, ErrEnded) {
		// It has, already. Nobody else has its pid before it was waited for.
		child.Process, err = Process{PID: cmd.Process.Pid}, nil
	}
	go func() { // ends with the process
		child.err = cmd.Wait()
		close(child.ended)
	}()
	if err == nil {
		err = running(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, child.Kill())
	}
	return child, nil
}

// Environment is that of the processes that are started: nothing of the server's that
// is not needed.
func Environment() []string {
	env := []string{"LC_ALL=C.UTF-8"}
	for _, key := range []string{"PATH", "TMPDIR", "LD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	return env
}

// How says how the process ended, "" while it runs.
func (c *Child) How() string {
	select {
	case <-c.ended:
	default:
		return ""
	}
	var exit *exec.ExitError
	switch {
	case c.err == nil:
		return "exit status 0"
	case errors.As(c.err, &exit):
		return exit.Error()
	default:
		return c.err.Error()
	}
}

// killWait bounds the wait for a killed process. One that is in a system call that
// cannot be interrupted ends later.
const killWait = 10 * time.Second

// Kill ends the process at once, with those beside it, and waits for them.
func (c *Child) Kill() error {
	err := c.Signal(syscall.SIGKILL)
	if err == nil || errors.Is(err, ErrEnded) {
		err = c.Await(context.Background(), killWait)
	}
	for _, b := range c.Beside {
		err = errors.Join(err, b.Kill())
	}
	return err
}

// Await waits for the process's end, for as long as most and ctx let it.
func (c *Child) Await(ctx context.Context, most time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, most, fmt.Errorf("process %d does not end", c.PID))
	defer cancel()
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// saidMax bounds what of a process's words goes into an error.
const saidMax = 2000

// writeWait bounds the wait for the process that writes the log. It has nothing to wait
// for itself.
const writeWait = 2 * time.Second

// settle waits until what the process has said is in its log. The process has ended.
func (c *Child) settle() {
	ctx, cancel := context.WithTimeout(context.Background(), writeWait)
	defer cancel()
	_ = c.Writer.Wait(ctx) // what is there by then has to do
}

// Said is the end of what the process has printed into its log, as one line.
func (c *Child) Said() string {
	f, err := regular.Open(c.log)
	if err != nil {
		return ""
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return ""
	}
	from := c.from
	if fi.Size() < from {
		from = 0 // it was cut meanwhile
	}
	b, err := io.ReadAll(io.NewSectionReader(f, max(from, fi.Size()-saidMax), saidMax))
	if err != nil {
		return ""
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

// Words says how Abandon puts the words of a program into an error.
type Words struct {
	Program string                   // its name
	Plain   func(said string) string // leaves out what is of no use to people; nil is nothing
	Ending  bool                     // the error is that the process is ending by itself
}

// endWait is how long a process that is ending by itself may take to finish what it has
// to say.
const endWait = 5 * time.Second

// Abandon ends the process of a start that failed with err, and those beside it, and
// returns err with what the process has said. Where it has ended by itself that is the
// error.
func (c *Child) Abandon(ctx context.Context, err error, w Words) error {
	if w.Ending && ctx.Err() == nil {
		_ = c.Await(ctx, endWait) // if it does not, it is killed
	}
	byItself := c.How()
	kerr := c.Kill()
	c.settle()
	said := c.Said()
	if w.Plain != nil {
		said = w.Plain(said)
	}
	switch {
	case byItself != "" && said != "":
		err = fmt.Errorf("%s ended (%s): %s", w.Program, byItself, said)
	case byItself != "":
		err = fmt.Errorf("%s ended (%s) and said nothing", w.Program, byItself)
	case said != "":
		err = fmt.Errorf("%w; the log says: %s", err, said)
	}
	if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return errors.Join(err, kerr)
}

// Main is for the init function of a package that starts this very program as a
// process of another kind: if this process was started by a Command with that Name, it
// calls main and exits with what that returns. Being in an init function it works in
// every program that links the package, tests included.
func Main(name string, main func(args []string) int) {
	if os.Args[0] == name {
		os.Exit(main(os.Args[1:]))
	}
}
