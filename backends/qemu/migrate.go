package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"vmfs/backends/handle"
	"vmfs/backends/qemu/qmp"
	"vmfs/internal/wait"
)

// unlimited is a bandwidth that no file has.
const unlimited = int64(1) << 50

// A transfer is the VM's state on its way to or from a file. QEMU before 9.0 is
// given the file itself (fd:); later ones open it as a member of an fd set (file:)
// and write the memory at fixed places (mapped-ram).
type transfer struct {
	conn *qmp.Conn
	// file is open for writing only or for reading only: of an fd set QEMU takes the
	// descriptor that has just the access it wants.
	file   *os.File
	mapped bool
	out    bool
}

const fdName = "snapshot"

// mapsRAM tells whether QEMU has file: (8.2 has it too) and mapped-ram.
func mapsRAM(v qmp.Version) bool { return v.QEMU.Major >= 9 }

// prepare tells QEMU how, and hands it the file. It returns what QEMU is to call it.
func (t *transfer) prepare(ctx context.Context) (uri string, done func(context.Context), err error) {
	v := t.conn.Version()
	caps := []map[string]any{{"capability": "events", "state": true}}
	if mapsRAM(v) {
		caps = append(caps, map[string]any{"capability": "mapped-ram", "state": t.mapped})
	}
	if err := t.conn.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": caps}, nil); err != nil {
		return "", nil, err
	}
	if t.out {
		args := map[string]any{"max-bandwidth": unlimited}
		if err := t.conn.Execute(ctx, "migrate-set-parameters", args, nil); err != nil {
			return "", nil, err
		}
	}
	if !mapsRAM(v) {
		args := map[string]any{"fdname": fdName}
		if err := t.conn.ExecuteFiles(ctx, "getfd", args, nil, t.file); err != nil {
			return "", nil, err
		}
		// QEMU takes the descriptor for itself when it begins; it is to be closed only
		// if it does not get there.
		return "fd:" + fdName, func(ctx context.Context) {
			_ = t.conn.Execute(ctx, "closefd", args, nil) // there mostly is none any more
		}, nil
	}
	var set struct {
		ID int64 `json:"fdset-id"`
	}
	if err := t.conn.ExecuteFiles(ctx, "add-fd", map[string]any{"opaque": fdName}, &set, t.file); err != nil {
		return "", nil, err
	}
	return "file:/dev/fdset/" + strconv.FormatInt(set.ID, 10), func(ctx context.Context) {
		_ = t.conn.Execute(ctx, "remove-fd", map[string]any{"fdset-id": set.ID}, nil) // it goes with QEMU at the latest
	}, nil
}

// run moves the state. Progress is called once a second, with what is known. When
// ctx ends, a transfer to a file is cancelled; the caller ends a QEMU whose
// transfer from a file is not wanted any more.
func (t *transfer) run(ctx context.Context, progress func(context.Context)) error {
	events := t.conn.Subscribe()
	defer events.Close()
	uri, done, err := t.prepare(ctx)
	if err != nil {
		return err
	}
	command := "migrate-incoming"
	if t.out {
		command = "migrate"
	}
	err = t.conn.Execute(ctx, command, map[string]any{"uri": uri}, nil)
	begun := err == nil
	if begun {
		err = t.await(ctx, events, progress)
	}
	if err != nil && ctx.Err() != nil && t.out {
		err = errors.Join(err, t.cancel(ctx)) // it may have begun all the same
	}
	late, stop := context.WithTimeout(context.WithoutCancel(ctx), handle.AskTimeout)
	defer stop()
	if t.conn.Err() == nil && (!begun || mapsRAM(t.conn.Version())) {
		done(late)
	}
	if begun && t.out {
		err = errors.Join(err, awaitFinal(late, t.conn))
	}
	return err
}

// awaitFinal waits until a VM whose state was written can be let go on. QEMU tells
// of the end a moment before.
func awaitFinal(ctx context.Context, conn *qmp.Conn) error {
	err := wait.Until(ctx, 2*time.Millisecond, func() (bool, error) {
		var s struct {
			Status string `json:"status"`
		}
		err := conn.Execute(ctx, "query-status", nil, &s)
		return s.Status != "finish-migrate", err
	})
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("QEMU does not finish the transfer of the state: %w", err)
	}
	return err
}

// await waits for the end that QEMU tells.
func (t *transfer) await(ctx context.Context, events *qmp.Subscription, progress func(context.Context)) error {
	for {
		tick, stop := context.WithTimeout(ctx, time.Second)
		ev, err := events.Next(tick)
		stop()
		switch {
		case err == nil && ev.Event == "MIGRATION":
			switch ev.Data["status"] {
			case "completed":
				return nil
			case "cancelled":
				return errors.New("QEMU's transfer of the state was cancelled")
			case "failed":
				return t.failure(ctx)
			}
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			if progress != nil {
				progress(ctx)
			}
		default:
			return err
		}
	}
}

// migrationInfo is of query-migrate.
type migrationInfo struct {
	Status string `json:"status"`
	Error  string `json:"error-desc"`
	RAM    struct {
		Transferred int64   `json:"transferred"`
		Remaining   int64   `json:"remaining"`
		Total       int64   `json:"total"`
		Mbps        float64 `json:"mbps"`
	} `json:"ram"`
}

func (t *transfer) failure(ctx context.Context) error {
	var info migrationInfo
	if err := t.conn.Execute(ctx, "query-migrate", nil, &info); err != nil {
		return err
	}
	if info.Error == "" {
		info.Error = "QEMU gives no reason"
	}
	return fmt.Errorf("the VM's state could not be transferred: %s", info.Error)
}

// cancelWait bounds the wait for a cancelled transfer to be so.
const cancelWait = 10 * time.Second

// cancel stops a transfer to a file and waits until QEMU has, whoever has gone.
func (t *transfer) cancel(ctx context.Context) error {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), cancelWait)
	defer stop()
	if err := t.conn.Execute(ctx, "migrate_cancel", nil, nil); err != nil {
		return err
	}
	return awaitIdle(ctx, t.conn)
}

// awaitIdle waits until no transfer is under way. It asks, since one that was
// over already when it was cancelled sends no event.
func awaitIdle(ctx context.Context, conn *qmp.Conn) error {
	err := wait.Until(ctx, 10*time.Millisecond, func() (bool, error) {
		var info migrationInfo
		err := conn.Execute(ctx, "query-migrate", nil, &info)
		switch info.Status {
		case "", "none", "completed", "failed", "cancelled":
			return true, err
		}
		return false, err
	})
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("QEMU does not stop the transfer of the state: %w", err)
	}
	return err
}
