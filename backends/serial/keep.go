package serial

import (
	"context"
	"log/slog"
	"os"
	"time"

	"vmfs/backends/companion"
)

const (
	// lastWords is how long after the VMM's end its serial port may be read: what it has
	// sent is there, and ends.
	lastWords = time.Second
	// settle is how long after the process its VMM may be seen to have ended.
	settle = 200 * time.Millisecond
	// linger is how long the process may take to write down what its VMM said last.
	linger = 5 * time.Second
)

// Begin starts the process for a VMM that is started next, and returns what that
// is to have as its standard output and error: see MakeOutput. The process ends when
// nobody has that open any more.
func Begin(ctx context.Context, c Config) (output *os.File, p *companion.Companion, err error) {
	if output, err = MakeOutput(c.Output); err != nil {
		return nil, nil, err
	}
	// What a VMM says that ends before the process has opened the FIFO is there only
	// while somebody has it open.
	held, err := openOutput(c.Output)
	if err == nil {
		p, err = start(ctx, c, []*os.File{held})
		_ = held.Close() // nothing was read
	}
	if err != nil {
		_ = output.Close() // nothing was written
		return nil, nil, err
	}
	return output, p, nil
}

// Keep sees to it that the VMM has its process, for as long as ctx lasts, which is to
// end with the VMM and with the handle on it; over tells whether it was the VMM. A nil p is
// to be found, or started if it has ended.
func Keep(ctx context.Context, c Config, p *companion.Companion, over func() bool, log *slog.Logger) {
	k := companion.Keeper{
		What:   "the console's process",
		Revive: func(ctx context.Context, _ bool) (*companion.Companion, error) { return FindOrStart(ctx, c) },
		Over:   over, Settle: settle, Linger: linger, Log: log,
	}
	k.Run(ctx, p)
}

// Settle waits until all that a VMM has said which has ended is in its files, for as
// long as ctx and a second last.
func Settle(ctx context.Context, console string) {
	ctx, cancel := context.WithTimeout(ctx, lastWords)
	defer cancel()
	if p, err := (Config{Console: console}).spec().Find(ctx); err == nil {
		_ = p.Wait(ctx) // what is there by then has to do
	}
}
