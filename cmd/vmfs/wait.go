package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/hugelgupf/p9/p9"
	"github.com/spf13/cobra"

	"vmfs/backends/hypervisor"
)

// vmStates are the states that can be waited for.
var vmStates = []string{
	string(hypervisor.StateCreated), string(hypervisor.StateRunning),
	string(hypervisor.StatePaused), string(hypervisor.StateShutdown),
}

func newWait() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait VM [STATE…]",
		Short: "Wait until a VM is in a state",
		Long: `Wait until the state of a VM is one of those given (created, running, paused,
shutdown), and print it. Without STATE wait until it differs from what it is now.
VM may be given as any path in its directory.

The exit status is 0 when the state was reached, 1 when the timeout came first or
the VM is gone.`,
		Example: `  vmfs wait web running --timeout 10s
  vmfs wait web paused shutdown && vmfs cat web/info
  vmfs write web/ctl poweroff && vmfs wait web shutdown --timeout 1m || vmfs write web/ctl stop`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeWait,
		RunE: func(cmd *cobra.Command, args []string) error {
			vm, states := vmOf(args[0]), args[1:]
			if vm == "" {
				return usagef("wait %s: that is not a VM", args[0])
			}
			for _, st := range states {
				if !slices.Contains(vmStates, st) {
					return usagef("wait %s: no state %q: it is one of %s", vm, st, strings.Join(vmStates, ", "))
				}
			}
			if timeout < 0 {
				return usagef("wait %s: a timeout of %v is in the past", vm, timeout)
			}
			ctx := cmd.Context()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			s, err := connect(cmd)
			if err != nil {
				return err
			}
			defer s.close()
			st, err := s.waitState(ctx, vm, states)
			if err != nil {
				return fmt.Errorf("wait %s: %w", vm, err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), st)
			return err
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this `time` (10s, 2m); 0 is never")
	cmd.RegisterFlagCompletionFunc("timeout", cobra.NoFileCompletions)
	addrFlag(cmd)
	return cmd
}

// waitState waits until the state of vm is one of states, or any other than now
// where there are none, and returns it. The end of ctx closes the session.
func (s *session) waitState(ctx context.Context, vm string, states []string) (string, error) {
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	last := ""
	for {
		st, next, err := s.nextState(vm, func(st string) bool { return slices.Contains(states, st) })
		if st != "" {
			last = st
		}
		switch {
		case err != nil && ctx.Err() != nil:
			if last == "" {
				return "", errors.New("timed out before the server told the state")
			}
			return "", fmt.Errorf("timed out: the state is %s", last)
		case err != nil:
			return "", lost(err)
		case slices.Contains(states, st):
			return st, nil
		case len(states) == 0 || slices.Contains(states, next):
			return next, nil
		}
		last = next
	}
}

// nextState returns the state st of vm, and, unless st is good enough, waits for
// the next one that differs.
func (s *session) nextState(vm string, enough func(st string) bool) (st, next string, err error) {
	// Opened before the state is read: no change falls between the two.
	w, err := s.open(vm+"/wait", p9.ReadOnly)
	if err != nil {
		return "", "", err
	}
	defer w.Close()
	if st, err = s.readFile(vm + "/state"); err != nil {
		return "", "", err
	}
	st = strings.TrimSpace(st)
	if enough(st) {
		return st, "", nil
	}
	buf := make([]byte, 128)
	n, err := w.Read(buf)
	if errors.Is(err, io.EOF) {
		err = errors.New("the VM is gone")
	}
	return st, strings.TrimSpace(string(buf[:n])), err
}
